//! Waiting for a condition with a deadline.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

/// Waits until `condition` gives something; fails with its last complaint after `deadline`.
pub async fn until<T>(
    what: &str,
    deadline: Duration,
    condition: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    until_every(what, deadline, Duration::from_millis(50), condition).await
}

/// [`until`], looking at intervals of `every`.
pub async fn until_every<T>(
    what: &str,
    deadline: Duration,
    every: Duration,
    mut condition: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match condition().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > end => {
                return Err(error.context(format!("{what}: not within {deadline:?}")));
            }
            Err(_) => tokio::time::sleep(every).await,
        }
    }
}
