"""A package, so that it is found before one of that name that a dependency installs."""
