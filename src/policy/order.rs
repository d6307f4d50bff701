//! In which order tables are swept: those whose rows refer to others first. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::model::{RelId, Schema};

/// Every table that governs leaves, dependents before what they refer to. Tables that refer to each other in a
/// circle stand next to each other.
pub fn order(schema: &Schema) -> Vec<RelId> {
    let children = referring(schema)
        .into_iter()
        .map(|(parent, children)| (parent, children.into_iter().collect()))
        .collect();
    components(&governing(schema), &children).concat()
}

/// The strongly connected components of a graph, those first that the edges of others lead to.
pub fn components(ids: &[RelId], edges: &BTreeMap<RelId, Vec<RelId>>) -> Vec<Vec<RelId>> {
    Tarjan::run(ids, edges)
}

fn governing(schema: &Schema) -> Vec<RelId> {
    schema
        .tables
        .values()
        .filter(|table| !table.leaves.is_empty())
        .map(|table| table.id)
        .collect()
}

/// By table, the other tables whose rows refer to its own.
pub fn referring(schema: &Schema) -> BTreeMap<RelId, BTreeSet<RelId>> {
    // Which table's rows a foreign key is about: those of every table that shares the relation.
    let mut tables_of: BTreeMap<RelId, Vec<RelId>> = BTreeMap::new();
    for id in governing(schema) {
        for member in schema
            .tables
            .get(&id)
            .iter()
            .flat_map(|table| &table.family)
        {
            tables_of.entry(*member).or_default().push(id);
        }
    }
    let mut children: BTreeMap<RelId, BTreeSet<RelId>> = BTreeMap::new();
    for key in &schema.foreign_keys {
        for parent in tables_of.get(&key.parent).into_iter().flatten() {
            for child in tables_of.get(&key.child).into_iter().flatten() {
                if child != parent {
                    children.entry(*parent).or_default().insert(*child);
                }
            }
        }
    }
    children
}

/// Tarjan's strongly connected components, without recursion: components come out with those first that
/// their edges lead to.
struct Tarjan<'a> {
    edges: &'a BTreeMap<RelId, Vec<RelId>>,
    next: usize,
    index: BTreeMap<RelId, usize>,
    low: BTreeMap<RelId, usize>,
    stack: Vec<RelId>,
    out: Vec<Vec<RelId>>,
}

impl<'a> Tarjan<'a> {
    fn run(ids: &[RelId], edges: &'a BTreeMap<RelId, Vec<RelId>>) -> Vec<Vec<RelId>> {
        let mut tarjan = Tarjan {
            edges,
            next: 0,
            index: BTreeMap::new(),
            low: BTreeMap::new(),
            stack: Vec::new(),
            out: Vec::new(),
        };
        for id in ids {
            if !tarjan.index.contains_key(id) {
                tarjan.visit(*id);
            }
        }
        tarjan.out
    }

    fn open(&mut self, node: RelId) {
        self.index.insert(node, self.next);
        self.low.insert(node, self.next);
        self.next += 1;
        self.stack.push(node);
    }

    fn lower(&mut self, node: RelId, to: usize) {
        if let Some(low) = self.low.get_mut(&node) {
            *low = (*low).min(to);
        }
    }

    fn visit(&mut self, start: RelId) {
        let edges = self.edges;
        let targets = |node: RelId| edges.get(&node).map_or(&[][..], Vec::as_slice);
        let mut path: Vec<(RelId, usize)> = vec![(start, 0)];
        self.open(start);
        while let Some((node, at)) = path.pop() {
            if let Some(target) = targets(node).get(at).copied() {
                path.push((node, at + 1));
                match self.index.get(&target).copied() {
                    None => {
                        self.open(target);
                        path.push((target, 0));
                    }
                    Some(index) if self.stack.contains(&target) => self.lower(node, index),
                    Some(_) => {}
                }
                continue;
            }
            let low = self.low.get(&node).copied().unwrap_or_default();
            if let Some((above, _)) = path.last().copied() {
                self.lower(above, low);
            }
            if self.index.get(&node) == Some(&low) {
                let mut component = Vec::new();
                while let Some(member) = self.stack.pop() {
                    component.push(member);
                    if member == node {
                        break;
                    }
                }
                self.out.push(component);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ids: &[RelId], edges: &[(RelId, RelId)]) -> Vec<RelId> {
        let mut map: BTreeMap<RelId, Vec<RelId>> = BTreeMap::new();
        for (parent, child) in edges {
            map.entry(*parent).or_default().push(*child);
        }
        components(ids, &map).concat()
    }

    #[test]
    fn children_come_before_parents() {
        // 1 is referred to by 2 and 3, 2 by 3.
        assert_eq!(run(&[1, 2, 3], &[(1, 2), (1, 3), (2, 3)]), vec![3, 2, 1]);
        assert_eq!(run(&[1, 2, 3], &[(3, 1), (3, 2)]), vec![1, 2, 3]);
    }

    #[test]
    fn circles_stay_together_below_what_they_refer_to() {
        let order = run(&[1, 2, 3, 4], &[(1, 2), (2, 3), (3, 2), (3, 4)]);
        let at = |id| order.iter().position(|other| *other == id);
        assert_eq!(at(4), Some(0));
        assert_eq!(at(1), Some(3));
    }
}
