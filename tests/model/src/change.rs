//! What happens in a world from one sweep to the next.

use std::collections::BTreeSet;

use crate::calendar::{Moment, Period};
use crate::world::{CellTag, Column, Consent, Hold, Reference, Row, Table, Value, World};

#[derive(Clone, Debug)]
pub enum Change {
    /// Time passes.
    Later(Moment),
    /// A purpose gets another period.
    Period(String, Period),
    /// A purpose ends.
    End(String),
    Place(Hold),
    /// The hold with this index is released.
    Release(usize),
    Consent(Consent),
    /// The subject of the consent with this index withdraws what it consented to for that purpose.
    Withdraw(usize),
    /// A subject asks for its erasure, which is carried out.
    Erase(String, Vec<String>),
    Suspend(String),
    Resume(String),
    /// A value of the row with this index changes.
    Update(usize, String, Value),
    Insert(Row),
    /// The row with this index is deleted by a user, where the server lets it.
    Delete(usize),
    /// A partition, or an inheritance child, leaves the table above it.
    Detach(usize),
    /// One that left, comes below the other table again.
    Attach(usize, usize),
    /// A new partition comes with rows. It is the next table.
    Divide(Box<Table>, Vec<Row>),
    /// A table, and what is below it, gets a column, rows that are there this value of it, and the column a tag.
    Extend(usize, Column, Value, Option<CellTag>),
    /// A table, and what is below it, loses a column, and with it the column's tag.
    Drop(usize, String),
    /// A statutory minimum of this period is on the cell of a table, too: a new one, or one that may be longer now, wherever
    /// it is.
    RequireMinimum(usize, String, Reference, Period),
    /// The same for a maximum, which may be shorter now.
    RequireMaximum(usize, String, Reference, Period),
    /// The cell of a table has another tag.
    Retag(usize, String, CellTag),
    /// The rows of a table are deleted from now on, or are shells.
    SetDelete(usize, bool),
}

impl World {
    /// The world after the change, which takes place in the present.
    pub fn apply(&mut self, change: &Change) {
        let now = self.now;
        let policy = &mut self.policy;
        match change {
            Change::Later(time) => self.now += time,
            Change::Period(name, period) => {
                if let Some(purpose) = policy.purposes.get_mut(name) {
                    purpose.periods.push((now, *period));
                }
            }
            Change::End(name) => {
                if let Some(purpose) = policy.purposes.get_mut(name) {
                    purpose.ended = Some(purpose.ended.map_or(now, |ended| ended.min(now)));
                }
            }
            Change::Place(hold) => policy.holds.push(hold.clone()),
            Change::Release(at) => {
                policy.holds.remove(*at);
            }
            Change::Consent(consent) => policy.consents.push(consent.clone()),
            Change::Withdraw(at) => {
                let Consent {
                    kind, key, purpose, ..
                } = policy.consents[*at].clone();
                let mut known = false;
                for consent in &mut policy.consents {
                    if (&consent.kind, &consent.key, &consent.purpose) == (&kind, &key, &purpose)
                        && consent.granted <= now
                    {
                        known = true;
                        consent.withdrawn =
                            Some(consent.withdrawn.map_or(now, |before| before.min(now)));
                    }
                }
                // A withdrawal without a consent on record is recorded, and counts.
                if !known {
                    policy.consents.push(Consent {
                        kind,
                        key,
                        purpose,
                        granted: now,
                        withdrawn: Some(now),
                    });
                }
            }
            Change::Erase(kind, key) => (*self, _) = self.erase(kind, key),
            Change::Suspend(name) => {
                if let Some(suspensions) = policy
                    .minimums
                    .get_mut(name)
                    .and_then(|minimum| minimum.defence.as_mut())
                {
                    suspensions.push((now, None));
                }
            }
            Change::Resume(name) => {
                let last = policy
                    .minimums
                    .get_mut(name)
                    .and_then(|minimum| minimum.defence.as_mut())
                    .and_then(|suspensions| suspensions.last_mut());
                if let Some((_, resumed @ None)) = last {
                    *resumed = Some(now);
                }
            }
            Change::Update(at, column, value) => {
                self.rows[*at].values.insert(column.clone(), value.clone());
            }
            Change::Insert(row) => self.rows.push(row.clone()),
            Change::Delete(at) => self.delete(&BTreeSet::from([*at])),
            Change::Detach(table) => self.detach(*table),
            Change::Attach(table, above) => self.attach(*table, *above),
            Change::Divide(table, rows) => self.divide(table, rows),
            Change::Extend(table, column, value, tag) => {
                self.extend(*table, column, value, tag.as_ref());
            }
            Change::Drop(table, column) => self.drop_column(*table, column),
            Change::RequireMinimum(table, cell, law, period) => {
                self.require_minimum(*table, cell, law, *period);
            }
            Change::RequireMaximum(table, cell, law, period) => {
                self.require_maximum(*table, cell, law, *period);
            }
            Change::Retag(table, cell, tag) => self.retag(*table, cell, tag),
            Change::SetDelete(table, delete) => self.set_delete(*table, *delete),
        }
    }
}
