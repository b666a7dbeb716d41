//! Work that is cleaned up after: when it fails, when it panics, when somebody presses Ctrl-C.

use anyhow::{Result, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How work ended.
#[derive(Debug)]
pub enum Outcome<T> {
    /// By itself, or by a panic (an error).
    Done(Result<T>),
    /// A signal ended it: the exit code to give.
    Interrupted(u8),
}

/// Does the work until it ends or a signal comes. From here on the signals end nothing by
/// themselves, so the cleaning up that follows is not cut off by a second Ctrl-C.
pub async fn guarded<T: 'static>(
    work: impl Future<Output = Result<T>> + 'static,
) -> Result<Outcome<T>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut task = tokio::task::spawn_local(work);
    let code = tokio::select! {
        ended = &mut task => return Ok(Outcome::Done(match ended {
            Ok(result) => result,
            Err(error) => Err(anyhow!("the program panicked, which is a bug in it: {error}")),
        })),
        () = came(&mut interrupt) => 130,
        () = came(&mut terminate) => 143,
        () = came(&mut hangup) => 129,
    };
    task.abort();
    // Waits until everything the work held is dropped.
    task.await.ok();
    Ok(Outcome::Interrupted(code))
}

async fn came(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}
