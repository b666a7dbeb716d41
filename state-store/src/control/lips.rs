//! Who owns which LIP. Assignments are stable: nothing moves unless its owner goes or the pool changes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use holdfast_schema::cluster::{ClusterState, DirectorId, LipAssignment, RefusalCode};
use holdfast_schema::config::ClusterSpec;

use super::{Verdict, refuse};

/// Most addresses of the pool that are ever considered.
pub(super) const MAX_POOL: u64 = 65_536;

/// The addresses of the pool, in order.
pub(super) fn pool(spec: &ClusterSpec) -> impl Iterator<Item = IpAddr> + '_ {
    spec.lip_pool.iter().flat_map(|p| p.addresses(MAX_POOL)).take(MAX_POOL as usize)
}

/// Why the pool cannot serve this many directors; none: it can. Addresses in quarantine do not count.
pub(super) fn shortage(
    spec: &ClusterSpec,
    lips: &BTreeMap<IpAddr, LipAssignment>,
    directors: usize,
) -> Option<String> {
    if spec.lip_pool.is_empty() {
        return None;
    }
    let size = pool(spec).count();
    let quarantined = pool(spec).filter(|ip| lips.get(ip).is_some_and(|a| a.quarantined)).count();
    let wanted = directors * usize::from(spec.lips_per_director);
    (wanted > size - quarantined).then(|| {
        format!(
            "the LIP pool is too small: {directors} directors x {} LIPs = {wanted}, but it has {size} \
             addresses, {quarantined} of them in quarantine",
            spec.lips_per_director
        )
    })
}

/// Brings the assignment in line with members and configuration.
pub(super) fn assign(cluster: &mut ClusterState) {
    let ClusterState { lips, spec, members, .. } = cluster;
    let in_pool = |ip: &IpAddr| spec.lip_pool.iter().any(|p| p.contains(*ip));
    // What left the pool may still have sessions; free addresses that left it are forgotten.
    lips.retain(|ip, a| in_pool(ip) || a.quarantined || a.owner.is_some());
    for (ip, assignment) in lips.iter_mut() {
        if assignment.owner.is_some() && !in_pool(ip) {
            *assignment = LipAssignment { owner: None, quarantined: true };
        }
    }
    let per_director = usize::from(spec.lips_per_director);
    for director in members.keys().copied() {
        let mut own: Vec<IpAddr> = owned(lips, director).collect();
        for ip in own.split_off(own.len().min(per_director)) {
            lips.insert(ip, LipAssignment { owner: None, quarantined: true });
        }
        let missing = per_director - own.len();
        let free: Vec<IpAddr> = pool(spec)
            .filter(|ip| lips.get(ip).is_none_or(|a| a.owner.is_none() && !a.quarantined))
            .take(missing)
            .collect();
        for ip in free {
            lips.insert(ip, LipAssignment { owner: Some(director), quarantined: false });
        }
    }
}

fn owned(
    lips: &BTreeMap<IpAddr, LipAssignment>,
    director: DirectorId,
) -> impl Iterator<Item = IpAddr> + '_ {
    lips.iter().filter(move |(_, a)| a.owner == Some(director)).map(|(ip, _)| *ip)
}

/// Puts the LIPs of a director that goes into quarantine.
pub(super) fn quarantine(cluster: &mut ClusterState, director: DirectorId) {
    for assignment in cluster.lips.values_mut().filter(|a| a.owner == Some(director)) {
        *assignment = LipAssignment { owner: None, quarantined: true };
    }
}

/// Gives a quarantined LIP back.
pub(super) fn release(cluster: &mut ClusterState, lip: IpAddr) -> Verdict {
    match cluster.lips.get(&lip) {
        None => refuse(RefusalCode::NotFound, format!("{lip} is not a LIP"), ""),
        Some(a) if !a.quarantined => {
            refuse(RefusalCode::Precondition, format!("LIP {lip} is not in quarantine"), "")
        }
        Some(_) => {
            cluster.lips.insert(lip, LipAssignment { owner: None, quarantined: false });
            assign(cluster);
            Ok(None)
        }
    }
}
