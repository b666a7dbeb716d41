//! Health of backends: every director checks, the control leader judges, all apply the same version.
//!
//! [`check`] does one check, [`judge`] counts successes and failures of one backend (pure),
//! [`runner`] checks all of them, [`aggregate`] makes versions out of reports (pure), and
//! [`service`] exchanges reports and versions with the other directors.

pub mod aggregate;
pub mod check;
pub mod judge;
pub mod runner;
pub mod service;
