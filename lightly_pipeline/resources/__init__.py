"""ConfigurableResources: described configuration and one method that opens a plain object."""
