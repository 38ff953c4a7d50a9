"""The contracts of a user's classes, and their registries: component, data set, objective."""
