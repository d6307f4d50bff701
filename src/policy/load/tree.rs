//! Partition and inheritance trees: what is above and below a relation, and which tagged relation governs a
//! leaf. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::model::RelId;

/// Who inherits from whom.
#[derive(Debug, Default)]
pub struct Forest {
    parents: BTreeMap<RelId, Vec<RelId>>,
    children: BTreeMap<RelId, Vec<RelId>>,
}

impl Forest {
    /// From pairs of child and parent, a child's parents in the order they were declared.
    pub fn new(pairs: impl IntoIterator<Item = (RelId, RelId)>) -> Forest {
        let mut forest = Forest::default();
        for (child, parent) in pairs {
            forest.parents.entry(child).or_default().push(parent);
            forest.children.entry(parent).or_default().push(child);
        }
        forest
    }

    fn closure(start: RelId, step: &BTreeMap<RelId, Vec<RelId>>) -> Vec<RelId> {
        let mut found = vec![start];
        let mut seen = BTreeSet::from([start]);
        let mut next = 0;
        while let Some(current) = found.get(next).copied() {
            for relation in step.get(&current).into_iter().flatten() {
                if seen.insert(*relation) {
                    found.push(*relation);
                }
            }
            next += 1;
        }
        found.remove(0);
        found
    }

    /// All ancestors, nearest first, each once.
    pub fn above(&self, relation: RelId) -> Vec<RelId> {
        Self::closure(relation, &self.parents)
    }

    /// All descendants, nearest first, each once.
    pub fn below(&self, relation: RelId) -> Vec<RelId> {
        Self::closure(relation, &self.children)
    }

    /// The tagged relations nearest to a leaf, at or above it, none of which is above another. More than one
    /// only where a table inherits from several parents.
    pub fn governing(&self, leaf: RelId, tagged: &BTreeSet<RelId>) -> Vec<RelId> {
        let mut candidates = BTreeSet::new();
        let mut open = vec![leaf];
        let mut seen = BTreeSet::new();
        while let Some(relation) = open.pop() {
            if !seen.insert(relation) {
                continue;
            }
            if tagged.contains(&relation) {
                candidates.insert(relation);
            } else {
                open.extend(self.parents.get(&relation).into_iter().flatten());
            }
        }
        let above: BTreeSet<RelId> = candidates
            .iter()
            .flat_map(|candidate| self.above(*candidate))
            .collect();
        candidates.difference(&above).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_tagged_relation_governs() {
        // 1 ← 2 ← 3, 1 ← 4
        let forest = Forest::new([(2, 1), (3, 2), (4, 1)]);
        let tagged = BTreeSet::from([1, 2]);
        assert_eq!(forest.governing(3, &tagged), vec![2]);
        assert_eq!(forest.governing(4, &tagged), vec![1]);
        assert_eq!(forest.governing(1, &tagged), vec![1]);
        assert_eq!(forest.governing(9, &tagged), Vec::<RelId>::new());
        assert_eq!(forest.above(3), vec![2, 1]);
        assert_eq!(forest.below(1), vec![2, 4, 3]);
    }

    #[test]
    fn several_parents_are_told_apart_from_one_above_the_other() {
        // 3 inherits from 1 and 2; 4 from 1 and from 5, which inherits from 1.
        let forest = Forest::new([(3, 1), (3, 2), (4, 1), (4, 5), (5, 1)]);
        let tagged = BTreeSet::from([1, 2, 5]);
        assert_eq!(forest.governing(3, &tagged), vec![1, 2]);
        assert_eq!(forest.governing(4, &tagged), vec![5]);
    }
}
