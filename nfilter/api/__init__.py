"""The interface for plugins: values, protocols, capabilities, hooks and errors."""
