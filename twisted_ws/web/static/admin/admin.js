// The admin page: see docs/reference/admin.md.
