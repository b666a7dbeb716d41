//! Tests of the session table as a whole.
