//! output: text and JSON forms of a report. Computes nothing.
