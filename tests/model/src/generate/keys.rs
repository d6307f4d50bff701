//! Tags of key columns.

use super::tags::cell;
use super::{Features, Tape};
use crate::world::{CellTag, Kind, Value, World};

/// Whether the column may be emptied: whatever is refused when such a tag is set, or takes a row from its subject, is not
/// made here.
fn may_be_emptied(world: &World, root: usize, column: &str) -> bool {
    let family = |at: usize| world.is_within(at, root);
    let says_subject = (0..world.tables.len())
        .filter(|at| family(*at))
        .filter_map(|at| world.tables[at].tag.as_ref()?.subject.as_ref())
        .any(|subject| subject.columns.iter().any(|name| name == column));
    column != "id" && !says_subject && !world.binds(root, column) && !world.leads_over(root, column)
}

/// Tags key columns of tagged tables now and then: they go with their rows, or are emptied.
pub fn tag_keys(tape: &mut Tape, world: &mut World, features: Features) {
    for root in 0..world.tables.len() {
        let table = &world.tables[root];
        let Some(delete) = table.tag.as_ref().map(|tag| tag.delete) else {
            continue;
        };
        if table.above.is_some() || !tape.chance(40) {
            continue;
        }
        for column in world.tables[root].columns.clone() {
            if column.kind != Kind::Key || !tape.chance(50) {
                continue;
            }
            let emptied = may_be_emptied(world, root, &column.name) && (!delete || tape.chance(70));
            if !emptied && !delete {
                continue;
            }
            let tag = CellTag {
                method: emptied.then_some(Value::Null),
                ..cell(tape, world, root, Kind::Key, features)
            };
            for member in 0..world.tables.len() {
                if member == root
                    || world.is_within(member, root) && world.tables[member].own.is_some()
                {
                    world.tables[member]
                        .cells
                        .insert(column.name.clone(), tag.clone());
                }
            }
        }
    }
}
