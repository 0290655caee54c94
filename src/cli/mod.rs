//! cli: arguments, the session that opens stages lazily, failures with remedies, one file per command.
