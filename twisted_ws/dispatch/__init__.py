"""Events to handler calls: order, data binding, returned values, errors."""
