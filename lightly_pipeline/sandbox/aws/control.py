"""The control endpoint `/_sandbox/…`: faults and calls for tests in other processes, and an instance's power button.

No bucket can have that name.
"""

import json
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Request, Response

if TYPE_CHECKING:
    from lightly_pipeline.sandbox.aws.cloud import Cloud

PREFIX = "/_sandbox/"


def control(cloud: "Cloud", request: Request) -> Response:
    """Carry out one request to the control endpoint."""
    parts = request.path.split("/")[2:]
    try:
        if parts == ["calls"] and request.method == "GET":
            return Response(json.dumps(cloud.calls.as_json()), content_type="application/json")
        if request.method == "POST":
            # A page in somebody's browser cannot send this type to another origin without being asked first.
            if request.mimetype != "application/json":
                return Response("The control endpoint takes application/json.", 415)
            wish = request.get_json()
            if len(parts) == 2 and parts[0] == "faults":
                cloud.faults.carry_out(parts[1], wish)
                return Response("{}", content_type="application/json")
            if len(parts) == 3 and parts[0] == "instances" and parts[2] == "power":
                _press_power_button(cloud, parts[1], wish)
                return Response("{}", content_type="application/json")
    except (ValueError, HTTPException) as error:
        return Response(str(error), 400)
    return Response(f"The sandbox has no {request.method} {request.path}.", 404)


def _press_power_button(cloud: "Cloud", instance_id: str, wish: dict[str, Any]) -> None:
    machine = cloud.machines.get(instance_id)
    if machine is None:
        raise ValueError(f"There is no instance {instance_id}.")
    if wish.get("action") == "cancel":
        machine.cancel_shutdown()
    elif wish.get("action") == "reboot":
        machine.reboot()
    else:
        machine.shut_down_from_inside(float(wish.get("minutes", 0)))
