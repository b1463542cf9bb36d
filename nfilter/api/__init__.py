"""What plugins are written against: values, protocols, capabilities, hooks and errors."""
