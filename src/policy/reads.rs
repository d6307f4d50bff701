//! Which tables the statements of a plan read besides the leaf they are for. Pure.

use std::collections::BTreeMap;

use crate::policy::model::{ForeignKey, Hop, Plan, RelId};

/// Tables by OID, each with the quoted name that statements call it by.
pub type Reads = BTreeMap<RelId, String>;

fn hops(path: &[Hop], reads: &mut Reads) {
    for hop in path {
        reads.insert(hop.parent, hop.parent_ident.quoted.clone());
    }
}

fn key(foreign_key: &ForeignKey, reads: &mut Reads) {
    reads.insert(foreign_key.child, foreign_key.child_ident.quoted.clone());
    reads.insert(foreign_key.parent, foreign_key.parent_ident.quoted.clone());
}

fn collect(plan: &Plan, reads: &mut Reads) {
    for group in &plan.groups {
        for cover in &group.covers {
            hops(&cover.clock.path, reads);
            if let Some(collected) = &cover.collected {
                hops(&collected.path, reads);
            }
            if let Some(subject) = &cover.consent {
                hops(&subject.path, reads);
            }
        }
        for clock in group.erasure.iter().flat_map(|erased| &erased.clocks) {
            hops(&clock.path, reads);
        }
        for keep in &group.keeps {
            hops(&keep.clock.path, reads);
        }
        for limit in &group.limits {
            hops(&limit.clock.path, reads);
        }
    }
    if let Some(subject) = &plan.subject {
        hops(&subject.path, reads);
    }
    for foreign_key in &plan.circle {
        key(foreign_key, reads);
    }
    for leaf in plan
        .together()
        .filter(|_| !plan.circle.is_empty())
        .flat_map(|plan| &plan.leaves)
    {
        reads.insert(leaf.id, leaf.ident.quoted.clone());
    }
    for peer in &plan.peers {
        collect(peer, reads);
    }
    for dependent in &plan.dependents {
        key(&dependent.foreign_key, reads);
        if let Some(plan) = &dependent.plan {
            collect(plan, reads);
        }
    }
}

/// The tables that statements of the plan read over foreign keys, in either direction: clocks, subjects, and whatever
/// refers to a row. May list more than one statement reads.
pub fn reads(plan: &Plan) -> Reads {
    let mut reads = Reads::new();
    collect(plan, &mut reads);
    reads
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::model::{Clock, Dependent, Group, Ident, Keep, OnDelete, TypeClass};
    use crate::policy::period::Period;

    fn ident(name: &str) -> Ident {
        Ident {
            name: name.to_owned(),
            quoted: format!("\"{name}\""),
        }
    }

    fn clock(parent: RelId) -> Clock {
        Clock {
            path: vec![Hop {
                foreign_key: "k".to_owned(),
                columns: Vec::new(),
                parent,
                parent_ident: ident("clock"),
                parent_partitioned: false,
                parent_columns: Vec::new(),
                operators: Vec::new(),
            }],
            column: ident("at"),
            class: TypeClass::TimestampTz,
            null_means_not_started: false,
        }
    }

    #[test]
    fn what_a_dependents_plan_reads_counts_too() {
        let child = Plan {
            groups: vec![Group {
                columns: Vec::new(),
                covers: Vec::new(),
                keeps: vec![Keep {
                    minimum: "m.m".to_owned(),
                    citation: String::new(),
                    period: Period::default(),
                    clock: clock(3),
                    defence: false,
                    suspensions: Vec::new(),
                }],
                limits: Vec::new(),
                erasure: None,
            }],
            ..Plan::default()
        };
        let plan = Plan {
            dependents: vec![Dependent {
                foreign_key: ForeignKey {
                    name: "k".to_owned(),
                    child: 2,
                    child_ident: ident("child"),
                    child_partitioned: false,
                    columns: Vec::new(),
                    parent: 1,
                    parent_ident: ident("parent"),
                    parent_partitioned: false,
                    parent_columns: Vec::new(),
                    operators: Vec::new(),
                    on_delete: OnDelete::Cascade,
                },
                reflexive: false,
                plan: Some(Box::new(child)),
            }],
            ..Plan::default()
        };
        let found: Vec<(RelId, String)> = reads(&plan).into_iter().collect();
        assert_eq!(
            found,
            [
                (1, "\"parent\"".to_owned()),
                (2, "\"child\"".to_owned()),
                (3, "\"clock\"".to_owned())
            ]
        );
    }
}
