//! Changes of the configuration: read it, change it, write it back if nobody else did meanwhile.

use std::time::Duration;

use holdfast_schema::admin::{ConfigChange, ConfigDocument, Done};
use holdfast_schema::config::{ClusterSpec, SpecError, validate, warnings};
use hyper::Method;

use crate::client::{Answer, Client};
use crate::failure::Failure;
use crate::output::Output;

/// How often a change is tried when others change the configuration at the same time.
const TRIES: u32 = 5;

/// The configuration as it is.
pub async fn current(client: &Client) -> Result<Answer<ConfigDocument>, Failure> {
    client.get("/v1/config").await
}

/// Writes a configuration that was made against `revision`.
pub async fn put(
    client: &Client,
    revision: u64,
    spec: ClusterSpec,
    force: Option<String>,
) -> Result<Answer<Done>, Failure> {
    let change = ConfigChange { expected_revision: revision, spec, force };
    client.send(Method::PUT, "/v1/config", &change).await
}

/// Changes the configuration by `change` and says so. If somebody else changes it at the same
/// time, `change` is applied to what they made of it.
pub async fn edit(
    client: &Client,
    output: Output,
    force: Option<String>,
    said: &str,
    change: impl Fn(&mut ClusterSpec) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for attempt in 1.. {
        let document = current(client).await?.value;
        let mut spec = document.spec.clone();
        change(&mut spec)?;
        if spec == document.spec {
            let done = Done { revision: document.revision, message: "nothing to change".into() };
            let json = serde_json::to_value(&done).unwrap_or_default();
            return output.result(&json, || format!("{said}: nothing to change"));
        }
        let errors = new_ones(&validate(&document.spec), validate(&spec));
        if !errors.is_empty() {
            return Err(Failure::spec(&errors));
        }
        let notes = new_ones(&warnings(&document.spec), warnings(&spec));
        match put(client, document.revision, spec, force.clone()).await {
            Ok(answer) => {
                for note in notes.iter().filter(|_| !output.for_programs()) {
                    output.note(&format!("note: {} ({})", note.message, note.hint));
                }
                let revision = answer.value.revision;
                return output.result(&answer.json, || format!("{said} (revision {revision})"));
            }
            Err(failure) if failure.code() == "revision-conflict" && attempt < TRIES => {
                tokio::time::sleep(Duration::from_millis(20) * attempt).await;
            }
            Err(failure) => return Err(failure),
        }
    }
    unreachable!("the last try returns")
}

/// What a change brought in. What was wrong before is not this change's fault: a newer command
/// must be able to mend what an older one allowed.
fn new_ones(before: &[SpecError], after: Vec<SpecError>) -> Vec<SpecError> {
    after.into_iter().filter(|e| !before.iter().any(|b| b.message == e.message)).collect()
}
