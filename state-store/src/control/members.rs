//! Members: joining, starting, being down, changing state, leaving.

use std::net::SocketAddr;

use holdfast_schema::cluster::{
    ClusterState, DirectorId, Member, MemberState, Refusal, RefusalCode, ReplicaId,
};
use holdfast_schema::prefix::Prefix;

use super::{Verdict, lips, refuse, validate};

/// Most members of a cluster.
const MAX_MEMBERS: usize = 256;

/// A director that joins.
pub(super) struct Newcomer<'a> {
    pub name: &'a str,
    pub address: SocketAddr,
    pub key_fingerprint: [u8; 32],
    pub connected: &'a [Prefix],
}

/// A member that has started (again).
pub(super) struct Start<'a> {
    pub incarnation: u64,
    pub address: SocketAddr,
    pub unclean: bool,
    pub amnesiac: bool,
    pub connected: &'a [Prefix],
}

/// The member with this number.
pub(super) fn find(cluster: &ClusterState, director: DirectorId) -> Result<&Member, Refusal> {
    cluster.members.get(&director).ok_or_else(|| Refusal {
        code: RefusalCode::NotFound,
        message: format!("there is no director with number {director}"),
        hint: "it may have been removed".to_owned(),
    })
}

fn find_mut(cluster: &mut ClusterState, director: DirectorId) -> Result<&mut Member, Refusal> {
    find(cluster, director)?;
    Ok(cluster.members.get_mut(&director).expect("it was found a line ago"))
}

/// A director's name, or its number if it is unknown.
pub(super) fn name(cluster: &ClusterState, director: DirectorId) -> String {
    find(cluster, director).map_or_else(|_| format!("director {director}"), |m| m.name.clone())
}

fn address_free(
    cluster: &ClusterState,
    address: SocketAddr,
    but: Option<DirectorId>,
) -> Result<(), Refusal> {
    match cluster.members.values().find(|m| m.address == address && Some(m.id) != but) {
        None => Ok(()),
        Some(other) => refuse(
            RefusalCode::Exists,
            format!("director {} is already at {address}", other.name),
            "give each director a peer address of its own in its node file",
        ),
    }
}

fn new_replica(cluster: &mut ClusterState) -> ReplicaId {
    let replica = ReplicaId(cluster.next.replica);
    cluster.next.replica += 1;
    replica
}

/// Takes a new member in. Its slot has been judged and is consumed here.
pub(super) fn join(cluster: &mut ClusterState, new: Newcomer<'_>) -> Verdict {
    if cluster.member_named(new.name).is_some() {
        return refuse(
            RefusalCode::NotAllowed,
            format!("the join token for {} was used already", new.name),
            "issue a new token with `holdfast node add`",
        );
    }
    address_free(cluster, new.address, None)?;
    if let Some(m) = cluster.members.values().find(|m| m.key_fingerprint == new.key_fingerprint) {
        return refuse(
            RefusalCode::NotAllowed,
            format!("director {} has the same key", m.name),
            "do not copy a data directory; begin with an empty one",
        );
    }
    validate::check_director(&cluster.spec, new.name, new.connected)?;
    if cluster.members.len() >= MAX_MEMBERS {
        let message = format!("the cluster has {MAX_MEMBERS} directors already");
        return refuse(RefusalCode::Precondition, message, "remove one first");
    }
    let shortage = lips::shortage(&cluster.spec, &cluster.lips, cluster.members.len() + 1);
    if let Some(message) = shortage {
        return refuse(
            RefusalCode::Precondition,
            message,
            "enlarge `lip-pool` in the cluster file and apply it",
        );
    }
    let id = DirectorId(cluster.next.director);
    cluster.next.director += 1;
    let replica = new_replica(cluster);
    cluster.tokens.remove(new.name);
    cluster.members.insert(
        id,
        Member {
            id,
            name: new.name.to_owned(),
            address: new.address,
            replica,
            incarnation: 1,
            state: MemberState::Joining,
            down: false,
            unclean: false,
            key_fingerprint: new.key_fingerprint,
            connected: new.connected.to_vec(),
        },
    );
    cluster.membership_epoch += 1;
    lips::assign(cluster);
    Ok(Some(u64::from(id.0)))
}

/// Records a start. The incarnation on the member's disk must be newer than the last one seen:
/// otherwise the disk is a copy or was restored.
pub(super) fn started(
    cluster: &mut ClusterState,
    director: DirectorId,
    start: Start<'_>,
) -> Verdict {
    address_free(cluster, start.address, Some(director))?;
    let known = find(cluster, director)?;
    if start.incarnation <= known.incarnation {
        return refuse(
            RefusalCode::NotAllowed,
            format!(
                "director {} has started {} times as the cluster counts, its disk says {}: the data \
                 directory is a copy or an old state of the real one",
                known.name, known.incarnation, start.incarnation
            ),
            "run only one machine with this identity; to use this one, remove the director and add \
             it again with an empty data directory",
        );
    }
    let replica = if start.amnesiac { new_replica(cluster) } else { known.replica };
    let member = find_mut(cluster, director)?;
    member.replica = replica;
    member.incarnation = start.incarnation;
    member.address = start.address;
    member.unclean = start.unclean;
    member.connected = start.connected.to_vec();
    member.down = false;
    cluster.membership_epoch += 1;
    Ok(Some(replica.0))
}

/// Declares a member down or up. Its planned changes go on: what they have moved has to settle, and
/// the leader's node ends them after that.
pub(super) fn set_down(
    cluster: &mut ClusterState,
    director: DirectorId,
    incarnation: u64,
    down: bool,
) -> Verdict {
    let member = find_mut(cluster, director)?;
    if member.incarnation != incarnation || member.down == down {
        return Ok(None);
    }
    member.down = down;
    cluster.membership_epoch += 1;
    Ok(None)
}

/// Moves a member to another state; tells whether it needed force.
pub(super) fn set_state(
    cluster: &mut ClusterState,
    director: DirectorId,
    to: MemberState,
    force: bool,
) -> Result<bool, Refusal> {
    use MemberState::{Active, Drained, Draining, Joining};
    let member = find(cluster, director)?;
    let (name, from) = (member.name.clone(), member.state);
    if from == to {
        return Ok(false);
    }
    let usual = matches!(
        (from, to),
        (Joining, Active | Draining)
            | (Active, Draining)
            | (Draining, Drained | Active)
            | (Drained, Active | Joining)
    );
    let mut objection = (!usual).then(|| Refusal {
        code: RefusalCode::Precondition,
        message: format!("director {name} cannot go from {} to {}", word(from), word(to)),
        hint: "drain before it is drained, undrain before it serves".to_owned(),
    });
    if matches!(to, Draining | Drained) && matches!(from, Active | Draining) {
        objection = objection.or(last_holder(cluster, director));
    }
    match objection {
        Some(refusal) if !force => Err(refusal),
        objection => {
            find_mut(cluster, director)?.state = to;
            cluster.membership_epoch += 1;
            Ok(objection.is_some())
        }
    }
}

/// Moves a member on from one state to the next, if it still is in the one.
pub(super) fn proceed(
    cluster: &mut ClusterState,
    director: DirectorId,
    from: MemberState,
    to: MemberState,
) -> Verdict {
    let member = find(cluster, director)?;
    if member.state != from && member.state != to {
        return refuse(
            RefusalCode::Precondition,
            format!(
                "director {} is {} by now: it does not go from {} to {}",
                member.name,
                word(member.state),
                word(from),
                word(to)
            ),
            "nothing needs to be done",
        );
    }
    set_state(cluster, director, to, false)?;
    Ok(None)
}

/// Why this director cannot give its traffic away: nobody else would be left to take it.
fn last_holder(cluster: &ClusterState, director: DirectorId) -> Option<Refusal> {
    let serving = |m: &&Member| m.state == MemberState::Active && !m.down;
    let others: Vec<&str> = cluster
        .members
        .values()
        .filter(|m| m.id != director)
        .filter(serving)
        .map(|m| m.name.as_str())
        .collect();
    others.is_empty().then(|| {
        let vips: Vec<String> = cluster.vips().iter().map(|v| v.to_string()).collect();
        let what = if vips.is_empty() { "any VIP".to_owned() } else { vips.join(", ") };
        Refusal {
            code: RefusalCode::Precondition,
            message: format!(
                "director {} is the last one that serves: of {} members, 1 serving - 1 = 0 left to \
                 announce {what}",
                name(cluster, director),
                cluster.members.len()
            ),
            hint: "bring another director into service first, or force it with a reason".to_owned(),
        }
    })
}

/// Ends a membership; tells whether it needed force. That the Raft groups can do without it has been
/// judged by the leader ([`super::removal`]).
pub(super) fn remove(
    cluster: &mut ClusterState,
    director: DirectorId,
    force: bool,
) -> Result<bool, Refusal> {
    let member = find(cluster, director)?;
    if cluster.members.len() == 1 {
        return refuse(
            RefusalCode::Precondition,
            format!(
                "director {} is the whole cluster: 1 voter - 1 = 0 left, a quorum of 1 needs 1",
                member.name
            ),
            "stop it and delete its data directory to end the cluster",
        );
    }
    let objection = (member.state != MemberState::Drained).then(|| Refusal {
        code: RefusalCode::Precondition,
        message: format!("director {} is {}, not drained", member.name, word(member.state)),
        hint: format!(
            "run `holdfast node drain {}` first, or force it with a reason if the machine is lost",
            member.name
        ),
    });
    match objection {
        Some(refusal) if !force => Err(refusal),
        objection => {
            lips::quarantine(cluster, director);
            cluster.members.remove(&director);
            cluster.planned.retain(|p| p.director != director);
            cluster.membership_epoch += 1;
            Ok(objection.is_some())
        }
    }
}

fn word(state: MemberState) -> &'static str {
    match state {
        MemberState::Joining => "joining",
        MemberState::Active => "active",
        MemberState::Draining => "draining",
        MemberState::Drained => "drained",
    }
}
