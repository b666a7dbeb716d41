//! A group that lost its majority begins anew, with a new generation (DESIGN section 5).

use super::driver::{Driver, DriverConfig};
use super::group::{Group, Place, bootstrap, found_empty};
use super::machine::Machine;

impl<M: Machine> Driver<M> {
    /// Brings groups to the generation that the control group wants.
    pub(super) fn follow_forms(&mut self) -> Result<(), String> {
        for at in 0..self.groups.len() {
            let Some((generation, first)) = self.groups[at].machine.form() else { continue };
            if generation <= self.groups[at].place.generation {
                continue;
            }
            // What the old generation has decided must not be written over the new one.
            self.disk.wait_idle()?;
            let group = self.groups.remove(at);
            let renewed =
                renew(group, generation, first, &self.config).map_err(|e| e.to_string())?;
            self.groups.insert(at, renewed);
        }
        Ok(())
    }
}

fn renew<M: Machine>(
    group: Group<M>,
    generation: u32,
    first: u64,
    config: &DriverConfig,
) -> Result<Group<M>, crate::StoreError> {
    let place = Place { generation, ..group.place };
    let (db, state) = (group.db.clone(), group.state.clone());
    let mut machine = group.into_machine();
    tracing::warn!(group = place.name(), generation, first, "the group is formed anew");
    if first == place.replica {
        bootstrap(&db, place, &machine.image())?;
        // Everything has just been written.
        machine.take_dirty();
    } else {
        machine.carry_over();
        found_empty(&db, place)?;
    }
    state.set_caught_up(false);
    Group::open_with(&db, place, config, state, machine)
}
