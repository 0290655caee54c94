//! report: the envelope of every answer: schema version, tool, target, hold, timing, diagnostics, the result inside.
