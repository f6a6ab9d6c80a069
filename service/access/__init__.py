"""Who may do what over HTTP: tokens and roles, logins, limits, and the record of what was done."""
