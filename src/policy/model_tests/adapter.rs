//! A world of the model as the compiler's input, and the facts that the server would find for a row.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use retention_model::world::{self, Row, Value, World};

use super::columns::columns;
use crate::anonymize::method::Method;
use crate::policy::compile::compile_undigested;
use crate::policy::evaluate::{Action, Facts, Verdict, evaluate};
use crate::policy::fixture;
use crate::policy::model::{
    Clock, Disposal, Erasing, ForeignKey, Hold, HoldScope, Hop, Ident, Leaf, Maximum, Minimum,
    OnDelete, Plan, Policy, Purpose, RelId, Schema, Span, Table,
};
use crate::policy::period::{Instant, Period};
use crate::policy::render::facts::{clocks, consents, match_columns};
use crate::policy::render::rewritten;
use crate::tag::effective;
use crate::tag::grammar::{self, ColumnLabel, ColumnTag, TableTag};

/// What is compiled for the worlds of a story: the tables, which nothing changes, and the plans under its last policy.
pub struct Compiled {
    schema: Schema,
    under: RefCell<Rc<Planned>>,
}

/// The plans of tables under one policy, each made when it is asked for.
#[derive(Default)]
struct Planned {
    policy: Policy,
    plans: RefCell<BTreeMap<usize, Rc<Plan>>>,
}

impl Compiled {
    pub fn new(world: &World) -> Self {
        Compiled {
            schema: schema(world),
            under: RefCell::default(),
        }
    }

    /// The plans under the world's policy: those that are there, where it is still the same.
    fn under(&self, world: &World) -> Rc<Planned> {
        let policy = policy(world);
        if self.under.borrow().policy != policy {
            self.under.replace(Rc::new(Planned {
                policy,
                plans: RefCell::default(),
            }));
        }
        self.under.borrow().clone()
    }
}

pub struct Adapter<'a> {
    world: &'a World,
    schema: &'a Schema,
    under: Rc<Planned>,
}

fn rel(table: usize) -> RelId {
    u32::try_from(table).expect("worlds are small") + 1
}

fn ident(name: &str) -> Ident {
    fixture::ident(name)
}

fn relation(world: &World, table: usize) -> Ident {
    ident(&format!("s.{}", world.tables[table].name))
}

fn period(period: retention_model::Period) -> Period {
    Period {
        months: period.months,
        days: period.days,
        micros: period.micros,
    }
}

fn table_tag(table: &world::Table) -> Option<TableTag> {
    table.label().map(|label| {
        // Tables are in a schema of their own.
        let label = label.replace("\"m.t", "\"s.t");
        grammar::parse_table(&label).expect("a valid label")
    })
}

fn column_tags(table: &world::Table) -> BTreeMap<String, ColumnLabel> {
    let labels = table.column_labels().into_iter();
    labels
        .map(|(name, label)| (name, grammar::parse_column(&label).expect("a valid label")))
        .collect()
}

fn tag_of(label: &ColumnLabel) -> ColumnTag {
    label.tag().expect("no clearance").clone()
}

/// A partition or inheritance child with tags of its own, below `parent`.
fn child(world: &World, at: usize, parent: &Table, above: &world::Table) -> Table {
    let table = &world.tables[at];
    let tag = match (table_tag(above), table_tag(table)) {
        (Some(above), Some(below)) => Some(effective::table(&above, &below)),
        (one, other) => one.or(other),
    };
    let mut labels = column_tags(above);
    for (name, below) in column_tags(table) {
        let label = match labels.get(&name) {
            Some(above) => effective::column(above, &below),
            None => below,
        };
        labels.insert(name, label);
    }
    Table {
        id: rel(at),
        ident: relation(world, at),
        tag,
        column_tags: labels
            .iter()
            .map(|(name, label)| (name.clone(), tag_of(label)))
            .collect(),
        leaves: vec![Leaf {
            id: rel(at),
            ident: relation(world, at),
            owner: parent.owner,
            within: vec![rel(at), parent.id],
        }],
        above: vec![parent.id],
        family: vec![rel(at), parent.id],
        split: false,
        ..parent.clone()
    }
}

/// The tables as they are read from the catalog: each root with its leaves.
fn schema(world: &World) -> Schema {
    let mut tables = BTreeMap::new();
    for (at, table) in world.tables.iter().enumerate() {
        if table.above.is_some() {
            continue;
        }
        let family: Vec<usize> = (0..world.tables.len())
            .filter(|member| world.is_within(*member, at))
            .collect();
        let leaves: Vec<Leaf> = family
            .iter()
            .filter(|member| !world.tables[**member].partitioned)
            .filter(|member| world.governor(**member) == at)
            .map(|member| Leaf {
                id: rel(*member),
                ident: relation(world, *member),
                owner: 10,
                within: if *member == at {
                    vec![rel(at)]
                } else {
                    vec![rel(*member), rel(at)]
                },
            })
            .collect();
        let tagged = table.tag.is_some() || !table.cells.is_empty();
        tables.insert(
            rel(at),
            Table {
                id: rel(at),
                ident: relation(world, at),
                owner: 10,
                columns: columns(world, at),
                primary_key: table.key.clone(),
                tag: table_tag(table),
                column_tags: column_tags(table)
                    .iter()
                    .map(|(name, label)| (name.clone(), tag_of(label)))
                    .collect(),
                leaves: if tagged { leaves } else { Vec::new() },
                above: Vec::new(),
                family: family.iter().map(|member| rel(*member)).collect(),
                split: family
                    .iter()
                    .any(|member| world.tables[*member].own.is_some()),
                unreadable: BTreeMap::new(),
                refused: crate::policy::model::Refused::default(),
                findings: Vec::new(),
            },
        );
    }
    for (at, table) in world.tables.iter().enumerate() {
        if let (Some(above), Some(_)) = (table.above, &table.own) {
            let below = child(world, at, &tables[&rel(above)], &world.tables[above]);
            tables.insert(rel(at), below);
        }
    }
    let idents = |names: &[String]| names.iter().map(|name| ident(name)).collect::<Vec<_>>();
    let foreign_keys = world
        .foreign_keys
        .iter()
        .map(|key| ForeignKey {
            name: key.name.clone(),
            child: rel(key.child),
            child_ident: relation(world, key.child),
            child_partitioned: world.tables[key.child].partitioned,
            columns: idents(&key.columns),
            parent: rel(key.parent),
            parent_ident: relation(world, key.parent),
            parent_partitioned: world.tables[key.parent].partitioned,
            parent_columns: idents(&key.parent_columns),
            operators: vec!["OPERATOR(pg_catalog.=)".to_owned(); key.columns.len()],
            on_delete: match key.on_delete {
                world::OnDelete::NoAction => OnDelete::NoAction,
                world::OnDelete::Restrict => OnDelete::Restrict,
                world::OnDelete::Cascade => OnDelete::Cascade,
                world::OnDelete::SetNull => OnDelete::SetNull,
                world::OnDelete::SetDefault => OnDelete::SetDefault,
            },
        })
        .collect();
    Schema {
        tables,
        foreign_keys,
    }
}

fn policy(world: &World) -> Policy {
    let purposes = world.policy.purposes.iter().map(|(name, purpose)| {
        let known = Purpose {
            name: name.clone(),
            basis: "contract".to_owned(),
            consent: purpose.consent_based,
            required: purpose.required,
            periods: purpose
                .periods
                .iter()
                .map(|(since, length)| (Instant::from_micros(*since), period(*length)))
                .collect(),
            ended_at: purpose.ended.map(Instant::from_micros),
        };
        (name.clone(), known)
    });
    let minimums = world.policy.minimums.iter().map(|(name, minimum)| {
        let span = |(from, until): &(i64, Option<i64>)| Span {
            from: Instant::from_micros(*from),
            until: until.map(Instant::from_micros),
        };
        let known = Minimum {
            name: name.clone(),
            period: period(minimum.period),
            citation: format!("Law on {name}"),
            defence: minimum.defence.is_some(),
            suspensions: minimum.defence.iter().flatten().map(span).collect(),
        };
        (name.clone(), known)
    });
    let holds = world.policy.holds.iter().zip(1..).map(|(hold, id)| Hold {
        id,
        matter: format!("M{id}"),
        scope: match hold {
            world::Hold::Subject { kind, key } => HoldScope::Subject {
                kind: kind.clone(),
                key: key.clone(),
            },
            world::Hold::Table { table } => HoldScope::Table { table: rel(*table) },
            world::Hold::Rows { table, matching } => HoldScope::Rows {
                table: rel(*table),
                matching: matching.clone(),
            },
        },
    });
    let maximums = world.policy.maximums.iter().map(|(name, length)| {
        let known = Maximum {
            name: name.clone(),
            period: period(*length),
            citation: format!("Law on {name}"),
        };
        (name.clone(), known)
    });
    let erasures = world.policy.erasures.iter();
    let policy = Policy {
        purposes: purposes.collect(),
        minimums: minimums.collect(),
        maximums: maximums.collect(),
        holds: holds.collect(),
        erasing: None,
        erased_kinds: erasures.map(|erasure| erasure.kind.clone()).collect(),
        withdrawn: None,
    };
    match &world.request {
        None => policy,
        Some((kind, key)) => {
            let erasing = Erasing {
                kind: kind.clone(),
                key: key.clone(),
                before: None,
            };
            policy.erasing(erasing, Instant::from_micros(world.now))
        }
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    }
}

impl<'a> Adapter<'a> {
    pub fn new(world: &'a World, compiled: &'a Compiled) -> Self {
        Adapter {
            world,
            schema: &compiled.schema,
            under: compiled.under(world),
        }
    }

    /// Whether rows refer to others from tables whose partitions or children have tags of their own: they go first.
    pub fn goes_in_turn(&self) -> bool {
        let keys = self.world.foreign_keys.iter();
        keys.map(|key| rel(key.child)).any(|child| {
            self.schema
                .tables
                .get(&child)
                .is_some_and(|table| table.split)
        })
    }

    fn plan(&self, table: usize) -> Rc<Plan> {
        let root = self.world.governor(table);
        self.under
            .plans
            .borrow_mut()
            .entry(root)
            .or_insert_with(|| {
                Rc::new(compile_undigested(
                    self.schema,
                    &self.under.policy,
                    rel(root),
                ))
            })
            .clone()
    }

    /// Rows of the relation that a foreign key's end names, as a query on it finds them.
    fn rows_of(&self, relation: RelId, partitioned: bool) -> impl Iterator<Item = &'a Row> {
        let world = self.world;
        world.rows.iter().filter(move |row| {
            rel(row.table) == relation
                || partitioned
                    && world.tables[row.table]
                        .above
                        .is_some_and(|above| rel(above) == relation)
        })
    }

    fn joins(child: &Row, columns: &[Ident], parent: &Row, parent_columns: &[Ident]) -> bool {
        columns.iter().zip(parent_columns).all(|(one, other)| {
            let value = text(child.value(&one.name));
            value.is_some() && value == text(parent.value(&other.name))
        })
    }

    fn walk(&self, row: &'a Row, path: &[Hop]) -> Option<&'a Row> {
        let mut at = row;
        for hop in path {
            at = self
                .rows_of(hop.parent, hop.parent_partitioned)
                .find(|parent| Self::joins(at, &hop.columns, parent, &hop.parent_columns))?;
        }
        Some(at)
    }

    fn clock(&self, row: &'a Row, clock: &Clock) -> Option<Instant> {
        match self.walk(row, &clock.path)?.value(&clock.column.name) {
            Value::Time(moment) => Some(Instant::from_micros(*moment)),
            _ => None,
        }
    }

    fn facts(&self, plan: &Plan, row: &'a Row) -> Facts {
        let mut facts = self.facts_alone(plan, row);
        if !plan.circle.is_empty() {
            facts.blocked.push(self.is_kept_in_circle(plan, row));
        }
        facts
    }

    /// The facts but for the rows of a circle that refer to this one.
    fn facts_alone(&self, plan: &Plan, row: &'a Row) -> Facts {
        let tags = &self.world.governing(row.table).cells;
        // Every method leaves NULL as it is.
        let disposed = |name: &str| {
            let value = row.value(name);
            *value == Value::Null || tags[name].method.as_ref() == Some(value)
        };
        let subject = match &plan.subject {
            Some(subject) => {
                let about = self.walk(row, &subject.path);
                subject
                    .columns
                    .iter()
                    .map(|column| about.and_then(|about| text(about.value(&column.name))))
                    .collect()
            }
            None => Vec::new(),
        };
        let blocked = plan
            .dependents
            .iter()
            .map(|dependent| {
                let key = &dependent.foreign_key;
                // A row of another table may have the same key.
                let mut parents = self.rows_of(key.parent, key.parent_partitioned);
                if !parents.any(|parent| std::ptr::eq(parent, row)) {
                    return false;
                }
                self.rows_of(key.child, key.child_partitioned).any(|child| {
                    Self::joins(child, &key.columns, row, &key.parent_columns)
                        && !(dependent.reflexive && std::ptr::eq(child, row))
                        && !dependent
                            .plan
                            .as_ref()
                            .is_some_and(|plan| self.is_due(plan, child))
                })
            })
            .collect();
        let consents = consents(plan)
            .into_iter()
            .map(|purpose| self.consents(plan, &subject, purpose))
            .collect();
        Facts {
            erasures: self.erasures(plan, &subject),
            consents,
            clocks: clocks(plan)
                .into_iter()
                .map(|clock| self.clock(row, clock))
                .collect(),
            disposed: plan
                .groups
                .iter()
                .flat_map(rewritten)
                .map(|column| disposed(&column.cell()))
                .collect(),
            subject,
            matching: match_columns(plan, &self.under.policy)
                .into_iter()
                .map(|name| text(row.value(name)))
                .collect(),
            blocked,
            within: (0..self.world.tables.len())
                .filter(|table| self.world.is_within(row.table, *table))
                .map(rel)
                .collect(),
        }
    }

    /// Whether a row that refers to this one, over any number of steps, is kept for another reason than such rows.
    fn is_kept_in_circle(&self, plan: &Plan, row: &'a Row) -> bool {
        let is_due = |row: &'a Row| {
            let mut judges = plan.together();
            let judge = judges.find(|plan| plan.family.contains(&rel(row.table)));
            judge.is_some_and(|judge| self.is_due_alone(judge, row))
        };
        let mut reached: Vec<&'a Row> = vec![row];
        let mut next = 0;
        while next < reached.len() {
            let parent = reached[next];
            // A row of another table may have the same key.
            let keys = plan.circle.iter().filter(|key| {
                let mut parents = self.rows_of(key.parent, key.parent_partitioned);
                parents.any(|row| std::ptr::eq(row, parent))
            });
            for key in keys {
                for child in self.rows_of(key.child, key.child_partitioned) {
                    if Self::joins(child, &key.columns, parent, &key.parent_columns)
                        && !reached.iter().any(|known| std::ptr::eq(*known, child))
                    {
                        reached.push(child);
                    }
                }
            }
            next += 1;
        }
        reached[1..].iter().any(|child| !is_due(child))
    }

    fn consents(&self, plan: &Plan, subject: &[Option<String>], purpose: &str) -> Vec<Span> {
        let kind = plan.subject.as_ref().map(|subject| subject.kind.as_str());
        let Some(key) = subject.iter().cloned().collect::<Option<Vec<String>>>() else {
            return Vec::new();
        };
        let given = self.world.policy.consents.iter().filter(|consent| {
            Some(consent.kind.as_str()) == kind && consent.key == key && consent.purpose == purpose
        });
        given
            .map(|consent| Span {
                from: Instant::from_micros(consent.granted),
                until: consent.withdrawn.map(Instant::from_micros),
            })
            .collect()
    }

    fn erasures(&self, plan: &Plan, subject: &[Option<String>]) -> Vec<Instant> {
        let kind = plan.subject.as_ref().map(|subject| subject.kind.as_str());
        let Some(key) = subject.iter().cloned().collect::<Option<Vec<String>>>() else {
            return Vec::new();
        };
        let known = self.world.policy.erasures.iter();
        let mut erasures: Vec<Instant> = known
            .filter(|erasure| Some(erasure.kind.as_str()) == kind && erasure.key == key)
            .map(|erasure| Instant::from_micros(erasure.at))
            .collect();
        erasures.sort();
        erasures
    }

    fn evaluate(&self, plan: &Plan, row: &'a Row) -> Vec<Verdict> {
        let now = Instant::from_micros(self.world.now);
        evaluate(plan, &self.under.policy, &self.facts(plan, row), now)
    }

    fn is_due(&self, plan: &Plan, row: &'a Row) -> bool {
        self.is_due_with(plan, row, &self.facts(plan, row))
    }

    /// Whether a row of a circle is due but for the rows of the circle that refer to it.
    fn is_due_alone(&self, plan: &Plan, row: &'a Row) -> bool {
        let mut facts = self.facts_alone(plan, row);
        facts.blocked.push(false);
        self.is_due_with(plan, row, &facts)
    }

    fn is_due_with(&self, plan: &Plan, row: &'a Row, facts: &Facts) -> bool {
        if plan.declared {
            return !self.world.is_held(row) && !facts.blocked.contains(&true);
        }
        let now = Instant::from_micros(self.world.now);
        let verdicts = evaluate(plan, &self.under.policy, facts, now);
        self.world.is_concerned(row)
            && !verdicts.is_empty()
            && verdicts
                .iter()
                .all(|verdict| verdict.action == Action::DeleteRow)
    }

    /// What the plan's method leaves of a cell of the row, if it has one.
    pub fn left(&self, row: &Row, cell: &str) -> Option<Value> {
        let plan = self.plan(row.table);
        let mut columns = plan.groups.iter().flat_map(|group| &group.columns);
        match &columns.find(|column| column.cell() == cell)?.disposal {
            Disposal::Anonymize(Method::SetNull) => Some(Value::Null),
            Disposal::Anonymize(Method::Constant(text)) => Some(Value::Text(text.clone())),
            Disposal::Anonymize(_) | Disposal::WithRow => None,
        }
    }

    /// What the extension says of the row's cells.
    pub fn verdicts(&self, row: &'a Row) -> Vec<Verdict> {
        self.evaluate(&self.plan(row.table), row)
    }
}
