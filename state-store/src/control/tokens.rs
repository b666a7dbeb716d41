//! Slots for directors to come. A token's secret is kept as a hash only, and used once.

use holdfast_schema::cluster::{ClusterState, DirectorId, JoinSlot, Refusal, RefusalCode};

use super::{Verdict, refuse};

/// Most slots open at a time.
const MAX_SLOTS: usize = 256;

/// Opens a slot, or opens it anew (an older token for it is void from now).
pub(super) fn issue(
    cluster: &mut ClusterState,
    name: &str,
    slot: &JoinSlot,
    now_s: u64,
) -> Verdict {
    let fits = !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !fits {
        return refuse(
            RefusalCode::Invalid,
            format!("`{name}` cannot be a director's name"),
            "use 1 to 63 letters, digits, `-`, `_` or `.`",
        );
    }
    if let Some(member) = cluster.member_named(name) {
        return refuse(
            RefusalCode::Exists,
            format!("director {name} is already in the cluster, at {}", member.address),
            "choose another name, or `holdfast node remove` it first",
        );
    }
    let open = cluster.tokens.iter().filter(|(n, s)| *n != name && s.expires_at_s > now_s).count();
    if open >= MAX_SLOTS {
        return refuse(
            RefusalCode::Precondition,
            format!("{MAX_SLOTS} join tokens are open already"),
            "use some of them, or issue one for the same name again",
        );
    }
    cluster.tokens.retain(|_, slot| slot.expires_at_s > now_s);
    cluster.tokens.insert(name.to_owned(), slot.clone());
    Ok(None)
}

/// Whether this secret opens this slot. The slot is consumed when the join is applied.
pub(super) fn judge(cluster: &ClusterState, name: &str, secret_hash: &[u8; 32]) -> Verdict {
    let hint = "issue a new token with `holdfast node add`";
    match cluster.tokens.get(name) {
        Some(slot) if slot.secret_hash == *secret_hash => Ok(None),
        Some(_) => refuse(
            RefusalCode::NotAllowed,
            format!("the join token for {name} is wrong or was replaced by a newer one"),
            hint,
        ),
        None => refuse(
            RefusalCode::NotAllowed,
            format!("the join token for {name} was used already, or never issued"),
            hint,
        ),
    }
}

/// What the leader does about somebody who asks to join.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It showed the secret of an open slot: its join is to be proposed.
    Open,
    /// It is this member already and has not started since: its answer was lost.
    Again(DirectorId),
}

/// Judges somebody who asks to join, before anything is proposed for it: whoever has no open slot
/// writes nothing into the log. `key` is the fingerprint of the key whose possession its signing
/// request proves; it is only asked for when it decides.
pub fn admit(
    cluster: &ClusterState,
    name: &str,
    secret_hash: &[u8; 32],
    now_s: u64,
    key: impl FnOnce() -> Option<[u8; 32]>,
) -> Result<Admission, Refusal> {
    let Some(slot) = cluster.tokens.get(name) else {
        let again = cluster
            .member_named(name)
            .filter(|m| m.incarnation == 1)
            .filter(|m| key() == Some(m.key_fingerprint));
        return match again {
            Some(member) => Ok(Admission::Again(member.id)),
            None => judge(cluster, name, secret_hash).map(|_| Admission::Open),
        };
    };
    judge(cluster, name, secret_hash)?;
    if now_s >= slot.expires_at_s {
        let message =
            format!("the join token for {name} expired {} s ago", now_s - slot.expires_at_s);
        return refuse(
            RefusalCode::NotAllowed,
            message,
            "issue a new one with `holdfast node add`",
        );
    }
    Ok(Admission::Open)
}
