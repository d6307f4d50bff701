//! Every way to tamper with a chain is found, and what it touched is named.

use proptest::prelude::*;

use super::*;

type Chain = Vec<(StoredBlock, Vec<StoredLeaf>)>;

fn seal(number: i64, previous: Hash, leaves: &[StoredLeaf]) -> StoredBlock {
    let hashes: Vec<Hash> = leaves
        .iter()
        .map(|leaf| fixed(&leaf.hash).expect("32 bytes"))
        .collect();
    let header = Header {
        number,
        sealed_at: number * 1000,
        timeline: 1,
        entries: leaves.len() as i32,
        root: block::root(&hashes),
        previous,
    };
    StoredBlock {
        number,
        sealed_at: header.sealed_at,
        timeline: 1,
        entries: header.entries,
        root: header.root.to_vec(),
        previous: previous.to_vec(),
        hash: header.hash().to_vec(),
    }
}

fn stored(position: usize, entry: i64, body: String) -> StoredLeaf {
    StoredLeaf {
        position: position as i32,
        entry,
        hash: block::leaf(entry, body.as_bytes()).to_vec(),
        body: Some(body),
    }
}

/// Blocks of the given sizes; entries are numbered from 1 through all of them.
fn chain(sizes: &[usize]) -> Chain {
    let mut previous = GENESIS;
    let mut entry = 0;
    let mut chain = Chain::new();
    for (index, size) in sizes.iter().enumerate() {
        let leaves: Vec<StoredLeaf> = (0..*size)
            .map(|position| {
                entry += 1;
                stored(position, entry, format!("{{\"entry\":{entry}}}"))
            })
            .collect();
        let block = seal(index as i64 + 1, previous, &leaves);
        previous = fixed(&block.hash).expect("32 bytes");
        chain.push((block, leaves));
    }
    chain
}

fn head(chain: &Chain) -> Head {
    let (last, _) = chain.last().expect("a block");
    Head {
        block: last.number,
        hash: fixed(&last.hash).expect("32 bytes"),
        entries: chain
            .iter()
            .map(|(block, _)| i64::from(block.entries))
            .sum(),
        unsealed: 0,
    }
}

fn check(chain: &Chain, head: Option<Head>) -> Vec<Problem> {
    let mut verifier = Verifier::new(head);
    for (block, leaves) in chain {
        verifier.block(block, leaves);
    }
    verifier.finish()
}

fn found(problems: &[Problem]) -> Vec<(Option<i64>, Option<i64>, &str)> {
    problems
        .iter()
        .map(|problem| (problem.block, problem.entry, problem.problem.as_str()))
        .collect()
}

#[test]
fn an_intact_chain_has_no_problem() {
    let chain = chain(&[3, 1, 4]);
    assert!(check(&chain, None).is_empty());
    assert!(check(&chain, Some(head(&chain))).is_empty());
    // A head from earlier is as good.
    assert!(check(&chain, Some(head(&chain[..2].to_vec()))).is_empty());
    assert!(check(&Chain::new(), None).is_empty());
}

#[test]
fn an_edited_entry_is_named() {
    let mut chain = chain(&[3, 2]);
    chain[0].1[1].body = Some("{\"entry\":99}".to_owned());
    assert_eq!(
        found(&check(&chain, None)),
        [(Some(1), Some(2), "the entry was edited")]
    );
}

#[test]
fn an_edited_entry_with_its_hash_is_found_by_the_root() {
    let mut chain = chain(&[3, 2]);
    chain[0].1[1] = stored(1, 2, "{}".to_owned());
    let problems = check(&chain, None);
    assert_eq!(problems.len(), 1);
    assert_eq!((problems[0].block, problems[0].entry), (Some(1), None));
    assert!(problems[0].problem.contains("do not give its root"));
}

#[test]
fn a_deleted_entry_is_named() {
    let mut chain = chain(&[3, 2]);
    chain[1].1[0].body = None;
    assert_eq!(
        found(&check(&chain, None)),
        [(Some(2), Some(4), "the entry was deleted")]
    );
    chain[1].1.remove(0);
    assert_eq!(
        found(&check(&chain, None)),
        [(Some(2), None, "the entry at position 0 was removed")]
    );
    chain[0].1.truncate(1);
    assert_eq!(
        found(&check(&chain, None))[0],
        (Some(1), None, "2 entries from position 1 on were removed")
    );
}

#[test]
fn an_inserted_entry_is_named() {
    let mut chain = chain(&[3, 2]);
    chain[0].1.push(stored(3, 77, "{}".to_owned()));
    assert_eq!(
        found(&check(&chain, None)),
        [(
            Some(1),
            Some(77),
            "the entry was inserted into the sealed block"
        )]
    );
}

#[test]
fn reordered_entries_are_named() {
    let mut chain = chain(&[3, 2]);
    chain[0].1.swap(0, 1);
    chain[0].1[0].position = 0;
    chain[0].1[1].position = 1;
    assert_eq!(
        found(&check(&chain, None)),
        [(Some(1), Some(1), "the entry is not where it was sealed")]
    );
}

#[test]
fn swapped_bodies_are_two_edited_entries() {
    let mut chain = chain(&[3]);
    let body = chain[0].1[0].body.take();
    chain[0].1[0].body = chain[0].1[2].body.take();
    chain[0].1[2].body = body;
    let problems = check(&chain, None);
    let entries: Vec<_> = problems.iter().map(|problem| problem.entry).collect();
    assert_eq!(entries, [Some(1), Some(3)]);
}

#[test]
fn a_truncated_chain_is_found_against_a_head() {
    let mut chain = chain(&[3, 2, 1]);
    let head = head(&chain);
    chain.truncate(1);
    assert!(check(&chain, None).is_empty());
    assert_eq!(
        found(&check(&chain, Some(head))),
        [(Some(2), None, "blocks 2 to 3 are missing")]
    );
}

#[test]
fn a_missing_block_is_found_without_a_head() {
    let mut chain = chain(&[3, 2, 1]);
    chain.remove(1);
    assert_eq!(
        found(&check(&chain, None)),
        [(Some(2), None, "block 2 is missing")]
    );
}

#[test]
fn a_replaced_block_does_not_fit_the_next() {
    let mut chain = chain(&[2, 2, 1]);
    chain[1].1[0] = stored(0, 3, "{}".to_owned());
    let previous = fixed(&chain[0].0.hash).expect("32 bytes");
    chain[1].0 = seal(2, previous, &chain[1].1);
    let problems = check(&chain, None);
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].block, Some(3));
}

#[test]
fn a_rewritten_chain_is_found_against_a_head() {
    let original = chain(&[2, 2]);
    let mut rewritten = chain(&[2]);
    rewritten[0].1[0] = stored(0, 1, "{}".to_owned());
    rewritten[0].0 = seal(1, GENESIS, &rewritten[0].1);
    let previous = fixed(&rewritten[0].0.hash).expect("32 bytes");
    let leaves = original[1].1.clone();
    rewritten.push((seal(2, previous, &leaves), leaves));
    assert!(check(&rewritten, None).is_empty());
    let problems = check(&rewritten, Some(head(&original)));
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].block, Some(2));
    assert!(problems[0].problem.contains("rewritten"));
}

#[test]
fn hashes_of_any_length_are_survived() {
    let mut chain = chain(&[2, 2]);
    chain[0].0.root = vec![1, 2, 3];
    chain[1].1[0].hash = Vec::new();
    chain[1].0.previous = Vec::new();
    assert!(check(&chain, None).len() >= 4);
}

proptest! {
    /// Any change of any stored byte is found, with a head.
    #[test]
    fn any_change_is_found(
        sizes in prop::collection::vec(1usize..6, 1..5),
        block in any::<prop::sample::Index>(), leaf in any::<prop::sample::Index>(), what in 0..11,
    ) {
        let mut chain = chain(&sizes);
        let head = head(&chain);
        prop_assert!(check(&chain, Some(head)).is_empty());
        let index = block.index(chain.len());
        let at = leaf.index(chain[index].1.len());
        let (block, leaves) = &mut chain[index];
        match what {
            0 => leaves[at].body = Some("x".to_owned()),
            1 => leaves[at].body = None,
            2 => leaves[at].hash[5] ^= 1,
            3 => leaves[at].entry += 100,
            4 => leaves[at].position += 7,
            5 => { leaves.remove(at); }
            6 => block.sealed_at += 1,
            7 => block.entries += 1,
            8 => block.root[0] ^= 1,
            9 => block.previous[0] ^= 1,
            _ => block.hash[0] ^= 1,
        }
        prop_assert!(!check(&chain, Some(head)).is_empty());
    }
}
