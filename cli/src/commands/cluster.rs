//! `holdfast cluster`.

use holdfast_schema::admin::{Done, InitRequest};
use hyper::Method;

use super::Context;
use crate::args::ClusterCommand;
use crate::failure::Failure;

pub async fn run(context: &Context, command: ClusterCommand) -> Result<(), Failure> {
    let ClusterCommand::Init { shards } = command;
    let request = InitRequest { shards };
    let answer = context.client.send::<Done>(Method::POST, "/v1/cluster/init", &request).await?;
    context.output.result(&answer.json, || {
        format!(
            "{}\nnext: `holdfast apply -f FILE` says what it serves, `holdfast node add NAME` adds a director",
            answer.value.message
        )
    })
}
