// A package must have a target; this one only names a dependency.
