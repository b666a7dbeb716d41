//! Reading and changing the configuration.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use holdfast_schema::admin::{ConfigChange, ConfigDocument, Done, ErrorCode, SessionCount};
use holdfast_schema::cluster::{ClusterState, ControlCommand};
use holdfast_schema::config::{ClusterSpec, validate};
use holdfast_state_store::StoreError;

use super::cluster::{COMMAND, body};
use super::error::{ApiError, done};
use super::server::Api;
use crate::peers::Uses;
use crate::sessions::gather;

/// `GET /v1/config`
pub async fn read(State(api): State<Api>) -> Result<Json<ConfigDocument>, ApiError> {
    let cluster = api.node.cluster().ok_or(StoreError::NotMember)?;
    Ok(Json(ConfigDocument { revision: cluster.revision, spec: cluster.spec.clone() }))
}

/// `PUT /v1/config`
pub async fn change(
    State(api): State<Api>,
    request: Result<Json<ConfigChange>, JsonRejection>,
) -> Result<Json<Done>, ApiError> {
    let ConfigChange { expected_revision, spec, force } = body(request)?;
    let cluster = api.node.cluster().ok_or(StoreError::NotMember)?;
    let errors = validate(&spec);
    if !errors.is_empty() {
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Err(ApiError::new(ErrorCode::Invalid, text.join("\n"), ""));
    }
    if force.is_none() {
        refuse_live(&api, &cluster, &spec).await?;
    }
    let command =
        ControlCommand::Configure { expected: expected_revision, spec: Box::new(spec), force };
    let revision = done(api.node.store.control(command, COMMAND).await?)?;
    let message = match revision == cluster.revision {
        true => format!("nothing changed, revision {revision}"),
        false => format!("revision {revision}"),
    };
    Ok(Json(Done { revision, message }))
}

/// Listeners and backends that the new configuration lacks. What gets another number is gone too:
/// the sessions of the old number are left without.
fn removed(cluster: &ClusterState, spec: &ClusterSpec) -> Uses {
    let mut gone = Uses::default();
    for (name, listener) in &cluster.listeners {
        let old = &listener.spec;
        let kept = spec.listeners.iter().any(|new| {
            new.name == *name
                && (new.vip, new.port, new.protocol) == (old.vip, old.port, old.protocol)
        });
        if !kept {
            gone.listeners.insert(listener.id);
        }
    }
    for (name, group) in &cluster.groups {
        let new = spec.groups.iter().find(|s| s.name == *name);
        for (name, backend) in &group.backends {
            let kept = new.and_then(|n| n.backends.iter().find(|s| s.name == *name));
            // Another address is another backend, whatever its name.
            if kept.is_none_or(|s| s.address != backend.spec.address) {
                gone.backends.insert(backend.id);
            }
        }
    }
    gone
}

/// Refuses to take away what live sessions use (DESIGN rule 9).
async fn refuse_live(
    api: &Api,
    cluster: &ClusterState,
    spec: &ClusterSpec,
) -> Result<(), ApiError> {
    let gone = removed(cluster, spec);
    if gone.is_empty() {
        return Ok(());
    }
    judge(&gather::live(&api.node, gone).await)
}

/// Nobody may use it, and everybody must have said so: a director that does not answer may have
/// sessions that nobody else knows.
fn judge(live: &SessionCount) -> Result<(), ApiError> {
    let refuse = |message, hint| Err(ApiError::new(ErrorCode::Precondition, message, hint));
    let silent = live.missing.join(", ");
    if live.total > 0 {
        let by: Vec<String> =
            live.by_director.iter().map(|(name, n)| format!("{n} on {name}")).collect();
        let unknown = match silent.as_str() {
            "" => String::new(),
            silent => format!("; {silent} did not answer and may have more"),
        };
        return refuse(
            format!(
                "{} live sessions use a listener or backend that would go ({}){unknown}",
                live.total,
                by.join(", ")
            ),
            "drain the backend first and wait, or repeat with --force REASON: the sessions break",
        );
    }
    if !live.missing.is_empty() {
        return refuse(
            format!(
                "{silent} did not answer and may have sessions that use a listener or backend that \
                 would go"
            ),
            "wait until it answers or is declared down, or repeat with --force REASON: its sessions \
             break",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::wish::tests::cluster;
    use holdfast_schema::cluster::{Backend, BackendId, Group, GroupId};
    use holdfast_schema::config::{BackendSpec, GroupSpec, ListenerSpec};
    use holdfast_schema::flow::Protocol;

    /// One listener (number 1) and one backend (number 7), and the configuration that says so.
    fn configured() -> (ClusterState, ClusterSpec) {
        let mut cluster = cluster();
        let backend = BackendSpec {
            name: "b1".to_owned(),
            address: "10.0.0.1:80".parse().unwrap(),
            weight: 100,
            draining: false,
        };
        let group = GroupSpec {
            name: "web".to_owned(),
            health: Default::default(),
            backends: vec![backend.clone()],
        };
        let listeners = cluster.listeners.values().map(|l| l.spec.clone()).collect();
        cluster.spec = ClusterSpec { listeners, groups: vec![group.clone()], ..cluster.spec };
        let backends = [("b1".to_owned(), Backend { id: BackendId(7), spec: backend })].into();
        cluster.groups =
            [("web".to_owned(), Group { id: GroupId(1), spec: group, backends })].into();
        let spec = cluster.spec.clone();
        (cluster, spec)
    }

    #[test]
    fn a_listener_that_answers_elsewhere_is_gone_although_its_name_stays() {
        let (cluster, same) = configured();
        assert!(removed(&cluster, &same).is_empty());
        type Change = fn(&mut ListenerSpec);
        let changes: [(&str, Change); 4] = [
            ("vip", |l| l.vip = "203.0.113.11".parse().unwrap()),
            ("port", |l| l.port = 81),
            ("protocol", |l| l.protocol = Protocol::Udp),
            ("name", |l| l.name = "www".to_owned()),
        ];
        for (what, change) in changes {
            let mut spec = same.clone();
            change(&mut spec.listeners[0]);
            let gone = removed(&cluster, &spec);
            assert_eq!(gone.listeners.len(), 1, "{what}");
        }
        let mut spec = same.clone();
        spec.listeners[0].idle_timeout_ms += 1;
        assert!(removed(&cluster, &spec).is_empty(), "everything else changes in place");
    }

    #[test]
    fn a_backend_at_another_address_is_gone() {
        let (cluster, same) = configured();
        let mut spec = same.clone();
        spec.groups[0].backends[0].address = "10.0.0.1:81".parse().unwrap();
        assert_eq!(removed(&cluster, &spec).backends, [BackendId(7)].into());
        let mut spec = same.clone();
        spec.groups[0].backends[0].draining = true;
        assert!(removed(&cluster, &spec).is_empty());
        let mut spec = same;
        spec.groups.clear();
        assert_eq!(removed(&cluster, &spec).backends, [BackendId(7)].into());
    }

    #[test]
    fn silence_is_not_zero_sessions() {
        let count = |total, missing: &[&str]| SessionCount {
            total,
            by_director: vec![("d1".to_owned(), total)],
            by_state: Vec::new(),
            missing: missing.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert!(judge(&count(0, &[])).is_ok());
        let refused = |live: SessionCount| judge(&live).unwrap_err().0;
        let silent = refused(count(0, &["d2", "d3"]));
        assert_eq!(silent.code, ErrorCode::Precondition);
        assert!(silent.message.contains("d2, d3 did not answer"), "{}", silent.message);
        assert!(silent.hint.contains("--force"), "{}", silent.hint);
        let both = refused(count(4, &["d2"])).message;
        assert!(both.contains("4 live sessions") && both.contains("d2 did not answer"), "{both}");
    }
}
