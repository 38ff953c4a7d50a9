"""The experiment in one YAML file: schema, file, overrides, plugins."""
