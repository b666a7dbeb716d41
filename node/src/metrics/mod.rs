//! `/metrics`: what sections 8 and 9 of the design need to be seen.
//!
//! [`names`] defines every metric once, [`scrape`] collects values against those definitions,
//! [`collect`] reads them from the running parts, [`server`] serves them, and [`mod@reference`] writes
//! docs/metrics.md from the definitions.

pub mod collect;
pub mod names;
pub mod reference;
pub mod scrape;
pub mod server;
