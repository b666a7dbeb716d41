//! The scenario.
pub mod steps;
pub mod wait;
use std::process::ExitCode;
pub async fn demo(_: crate::args::Demo) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::FAILURE)
}
pub async fn workload_only(_: crate::args::Workload) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::FAILURE)
}
