//! What a relation's columns are to somebody outside: cleared, tagged with a residency, or unreviewed.
//!
//! All of it is read from the catalogs, and waits for no lock on the relation or on those above and below it: who asks may
//! already hold locks that the holder of those waits for, and its statement may have no need of them.

use std::collections::BTreeSet;

use pgrx::pg_sys;

use crate::guard::rules::Rules;
use crate::guard::tls;
use crate::pg::{attribute, inherit, relation, sql_type};
use crate::tag::grammar::ColumnLabel;
use crate::tag::{effective, read};

/// How a column may cross.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Reviewed, and not personal.
    Cleared,
    /// Personal: may be in these regions; `None` was not stated, which is the most restrictive.
    Tagged {
        category: String,
        /// Category and purposes of each cell: the column's and those of paths inside its documents. Empty where part of
        /// the documents is under no tag.
        cells: Vec<(String, Vec<String>)>,
        residency: Option<Vec<String>>,
    },
    /// Neither tagged nor cleared, or with a label that cannot be read.
    Unreviewed,
}

impl Exposure {
    /// What a label says.
    pub fn of(label: Option<&ColumnLabel>) -> Exposure {
        match label {
            None => Exposure::Unreviewed,
            Some(ColumnLabel::NotPersonal) => Exposure::Cleared,
            // No transfer covers what nobody has reviewed.
            Some(ColumnLabel::Derived(derived)) => Exposure::Tagged {
                category: derived.categories.join(", "),
                cells: Vec::new(),
                residency: derived.residency.clone(),
            },
            Some(ColumnLabel::Tag(tag)) => Exposure::Tagged {
                category: tag.category.clone(),
                cells: if tag.derived {
                    Vec::new()
                } else {
                    tag.cells()
                        .map(|(_, cell)| (cell.category.clone(), cell.purposes.clone()))
                        .collect()
                },
                residency: tag.residency_of_all(),
            },
        }
    }

    /// In a few words, after the column's name.
    pub fn describe(&self) -> String {
        match self {
            Exposure::Cleared => "cleared".to_owned(),
            Exposure::Unreviewed => "unreviewed".to_owned(),
            Exposure::Tagged {
                category,
                residency: None,
                ..
            } => format!("{category}, residency not stated"),
            Exposure::Tagged {
                category,
                residency: Some(regions),
                ..
            } if regions.is_empty() => format!("{category}, in no region"),
            Exposure::Tagged {
                category,
                residency: Some(regions),
                ..
            } => format!("{category}, residency {}", regions.join(", ")),
        }
    }
}

/// A column with its exposure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub attnum: i16,
    pub name: String,
    /// Computed from other columns, and so not published before version 18.
    pub generated: bool,
    pub exposure: Exposure,
    /// Whether its tag demands encrypted connections.
    pub tls: bool,
}

/// The columns of a relation, as somebody sees them who reads it or any relation below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    pub relation: pg_sys::Oid,
    pub columns: Vec<Column>,
    /// Columns of rows that are there that the error of an INSERT may show: those of exclusion constraints, with number 0
    /// for an expression over any of them.
    pub shown: Vec<i16>,
    /// What says of each row where it may be, if the table's tag names such a column.
    pub by_row: Option<ByRow>,
    /// The foreign tables below it, to which rows may be routed.
    pub foreign_below: Vec<pg_sys::Oid>,
    /// Every relation whose labels or place in a hierarchy went into this.
    pub depends_on: Vec<pg_sys::Oid>,
}

/// The column that says of each row where it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByRow {
    /// Empty when the tags of the relation and those above and below it do not agree on one, or cannot be read.
    pub name: String,
    /// `None` when there is no such column, or none that conditions can be proved of: of type text or varchar, under
    /// whose collation equal values are the same.
    pub attnum: Option<i16>,
}

impl ByRow {
    fn of(relation: pg_sys::Oid, name: String) -> ByRow {
        let attnum = relation::column_number(relation, &name).filter(|attnum| {
            let declared = sql_type::declared(relation, *attnum);
            matches!(declared.type_oid, pg_sys::TEXTOID | pg_sys::VARCHAROID)
                && sql_type::is_deterministic(declared.collation)
        });
        ByRow { name, attnum }
    }
}

impl Columns {
    /// Whether a column's tag demands encrypted connections.
    pub fn demands_tls(&self) -> bool {
        self.columns.iter().any(|column| column.tls)
    }
}

/// A column with the label in force on it.
pub struct Labelled {
    pub attnum: i16,
    pub name: String,
    pub generated: bool,
    pub label: Option<ColumnLabel>,
}

/// Reads the exposure of every column of a relation.
pub fn columns(relation: pg_sys::Oid) -> Columns {
    let (columns, mut depends_on) = labelled(relation);
    let (by_row, kin) = by_row(relation);
    depends_on.extend(kin);
    let foreign_below = inherit::descendants(relation)
        .into_iter()
        .filter(|below| relation::kind(*below) == pg_sys::RELKIND_FOREIGN_TABLE)
        .collect();
    Columns {
        relation,
        columns: exposed(columns),
        shown: shown(relation),
        by_row,
        foreign_below,
        depends_on,
    }
}

/// The columns of a relation with their exposure, and whether its rows say by themselves where they may be.
pub fn recorded(relation: pg_sys::Oid) -> (Vec<Column>, bool) {
    let (columns, _) = labelled(relation);
    (exposed(columns), is_by_row(relation))
}

fn exposed(columns: Vec<Labelled>) -> Vec<Column> {
    columns
        .into_iter()
        .map(|column| Column {
            attnum: column.attnum,
            name: column.name,
            generated: column.generated,
            tls: tls::demanded_by(column.label.as_ref()),
            exposure: Exposure::of(column.label.as_ref()),
        })
        .collect()
}

/// What a relation's own labels say of where each of its rows may be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rows {
    /// Nothing.
    Unsaid,
    /// What this column says.
    In(String),
    /// Where the tags of its own columns say.
    ByTags,
    /// Its table's label cannot be read.
    Unknown,
}

impl Rows {
    fn of(own: &read::Labels) -> Rows {
        if own.malformed.iter().any(|bad| bad.column.is_none()) {
            return Rows::Unknown;
        }
        let named = own
            .table
            .as_ref()
            .and_then(|tag| tag.residency_column.clone());
        let tagged = |label: &ColumnLabel| *label != ColumnLabel::NotPersonal;
        match named {
            Some(name) => Rows::In(name),
            None if own.columns.values().any(tagged) => Rows::ByTags,
            None => Rows::Unsaid,
        }
    }
}

/// The column that says where each row of a relation may be, and of those below it, which who reads it reads too. `governing`
/// is the one of the tag in force on it, `kin` what the relation itself says, all above and below it, and the other
/// parents of those. Empty where they do not all mean the same, or one cannot be read: whoever puts a table below another
/// must not open or move rows of either. `None` where rows are not told apart. Pure.
fn agreed(governing: Option<String>, kin: &[Rows]) -> Option<String> {
    if kin.contains(&Rows::Unknown) {
        return Some(String::new());
    }
    if !kin.iter().any(|rows| matches!(rows, Rows::In(_))) {
        return None;
    }
    let governing = governing.unwrap_or_default();
    let agree = kin.iter().all(|rows| match rows {
        Rows::In(name) => *name == governing,
        Rows::Unsaid => true,
        Rows::ByTags | Rows::Unknown => false,
    });
    Some(if agree { governing } else { String::new() })
}

/// What says of each row of a relation where it may be, and the relations whose labels went into that.
fn by_row(relation: pg_sys::Oid) -> (Option<ByRow>, Vec<pg_sys::Oid>) {
    let mut members = vec![relation];
    members.extend(inherit::descendants(relation));
    let above = members
        .iter()
        .flat_map(|member| inherit::ancestors(*member));
    let kin: BTreeSet<u32> = members
        .iter()
        .copied()
        .chain(above)
        .map(pg_sys::Oid::to_u32)
        .collect();
    let kin: Vec<pg_sys::Oid> = kin.into_iter().map(pg_sys::Oid::from).collect();
    let said: Vec<Rows> = kin
        .iter()
        .map(|member| Rows::of(&read::own(*member)))
        .collect();
    let governing = read::labels(relation)
        .table
        .and_then(|tag| tag.residency_column);
    let by_row = agreed(governing, &said).map(|name| ByRow::of(relation, name));
    (by_row, kin)
}

/// Whether rows of a relation, or of those below it, may be elsewhere than its columns' tags say.
pub fn is_by_row(relation: pg_sys::Oid) -> bool {
    by_row(relation).0.is_some()
}

/// The columns of the exclusion constraints of a relation and those below it, by the relation's own numbers. The error of
/// such a constraint shows the row that is in the way.
fn shown(relation: pg_sys::Oid) -> Vec<i16> {
    let mut numbers = relation::excluded_columns(relation);
    for child in inherit::descendants(relation) {
        for number in relation::excluded_columns(child) {
            let name = relation::column_name(child, number);
            let number = name.and_then(|name| relation::column_number(relation, &name));
            numbers.push(number.unwrap_or(0));
        }
    }
    numbers
}

/// The columns of a relation with their labels in force, and the relations that these depend on. A parent's tag governs its
/// children; and who reads a parent reads its children too, so what a child tightened counts here as well.
pub fn labelled(relation: pg_sys::Oid) -> (Vec<Labelled>, Vec<pg_sys::Oid>) {
    let labels = read::labels(relation);
    let descendants = inherit::descendants(relation);
    let mut depends_on = vec![relation];
    depends_on.extend(inherit::ancestors(relation));
    depends_on.extend(&descendants);
    let below: Vec<read::Labels> = descendants.into_iter().map(read::labels).collect();
    let columns = attribute::live(relation)
        .into_iter()
        .map(|(attnum, name, generated)| {
            let mut label = labels.columns.get(&name).cloned();
            for child in &below {
                if child
                    .malformed
                    .iter()
                    .any(|bad| bad.column.as_ref() == Some(&name))
                {
                    label = None;
                }
                if let (Some(parent), Some(child)) = (&label, child.columns.get(&name)) {
                    label = Some(effective::column(parent, child));
                }
            }
            Labelled {
                attnum,
                name,
                generated,
                label,
            }
        })
        .collect();
    (columns, depends_on)
}

/// Names columns with their exposure, at most `limit` of them.
pub fn describe(offending: &[(pg_sys::Oid, Column)], limit: usize) -> String {
    let mut parts: Vec<String> = offending
        .iter()
        .take(limit)
        .map(|(table, column)| {
            format!(
                "{}.{} ({})",
                relation::describe(*table),
                column.name,
                column.exposure.describe()
            )
        })
        .collect();
    if offending.len() > limit {
        parts.push(format!("and {} more", offending.len() - limit));
    }
    parts.join(", ")
}

/// Whether data of this exposure may be published for `regions`, as a steward permitted it. Unreviewed data
/// may go round inside the node's own region only.
pub fn permits(
    exposure: &Exposure,
    regions: &[String],
    own: Option<&str>,
    rules: Option<&Rules>,
) -> bool {
    let within = |region: &str, others: &[&str]| match rules {
        Some(rules) => rules.within_any(region, others),
        None => others.contains(&region),
    };
    match exposure {
        Exposure::Cleared => true,
        Exposure::Tagged {
            residency: Some(residency),
            ..
        } => {
            let residency: Vec<&str> = residency.iter().map(String::as_str).collect();
            !regions.is_empty() && regions.iter().all(|region| within(region, &residency))
        }
        Exposure::Tagged {
            residency: None, ..
        } => false,
        Exposure::Unreviewed => own.is_some_and(|own| {
            !regions.is_empty() && regions.iter().all(|region| within(region, &[own]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::rules::parse;

    fn tagged(residency: Option<&[&str]>) -> Exposure {
        Exposure::Tagged {
            category: "user.contact.email".to_owned(),
            cells: Vec::new(),
            residency: residency.map(|regions| regions.iter().map(|r| (*r).to_owned()).collect()),
        }
    }

    fn regions(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_permit_reaches_as_far_as_the_residency_of_each_column() {
        let rules = parse("region eu\nregion de in eu\nregion cn").rules();
        let rules = rules.as_ref();
        let may = |exposure: &Exposure, names: &[&str]| {
            permits(exposure, &regions(names), Some("cn"), rules)
        };
        assert!(may(&tagged(Some(&["cn", "eu"])), &["cn", "de"]));
        assert!(!may(&tagged(Some(&["cn", "de"])), &["eu"]));
        assert!(!may(&tagged(Some(&["cn"])), &["cn", "de"]));
        assert!(!may(&tagged(None), &["cn"]));
        assert!(!may(&tagged(Some(&["cn"])), &[]));
        assert!(may(&Exposure::Cleared, &["de"]));
    }

    #[test]
    fn rows_pass_by_a_column_only_where_all_tables_in_a_hierarchy_mean_it() {
        let named = |name: &str| Rows::In(name.to_owned());
        let by = |governing: Option<&str>, kin: &[Rows]| agreed(governing.map(str::to_owned), kin);
        let country = Some("country".to_owned());
        let closed = Some(String::new());
        assert_eq!(by(None, &[Rows::Unsaid, Rows::ByTags]), None);
        assert_eq!(by(Some("country"), &[named("country")]), country);
        assert_eq!(
            by(
                Some("country"),
                &[Rows::Unsaid, named("country"), named("country")]
            ),
            country
        );
        // A child has one that its parent has not.
        assert_eq!(by(None, &[Rows::Unsaid, named("country")]), closed);
        assert_eq!(
            by(Some("country"), &[named("country"), named("place")]),
            closed
        );
        assert_eq!(
            by(Some("country"), &[named("country"), Rows::ByTags]),
            closed
        );
        // What cannot be read could have said so.
        assert_eq!(by(None, &[Rows::Unknown]), closed);
        assert_eq!(
            by(Some("country"), &[named("country"), Rows::Unknown]),
            closed
        );
    }

    #[test]
    fn unreviewed_columns_stay_in_the_nodes_own_region() {
        let rules = parse("region eu\nregion de in eu\nregion cn").rules();
        let rules = rules.as_ref();
        let may = |own: Option<&str>, names: &[&str]| {
            permits(&Exposure::Unreviewed, &regions(names), own, rules)
        };
        assert!(may(Some("eu"), &["de"]));
        assert!(!may(Some("de"), &["eu"]));
        assert!(!may(Some("cn"), &["cn", "de"]));
        assert!(!may(None, &["cn"]));
        assert!(!may(Some("cn"), &[]));
    }

    #[test]
    fn without_rules_regions_compare_by_name() {
        let may = |names: &[&str]| permits(&tagged(Some(&["cn"])), &regions(names), None, None);
        assert!(may(&["cn"]));
        assert!(!may(&["de"]));
    }
}
