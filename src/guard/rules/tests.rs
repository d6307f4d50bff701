use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

const FILE: &str = r#"
# one file for every node
region eu
region de in eu
region cn
region us   # trailing comment

node 10.86.0.1 cn shop
node 10.33.0.1 de shop
network 10.86.0.0/16 cn shop
network 10.86.9.0/24 us
network 2001:db8:86::/48 cn shop
network ::ffff:10.33.0.0/112 de shop
issuer "/O=cn/CN=cn authority" cn
subject "/CN=a ""quoted"" name" de "Shop GmbH"
pooler 10.86.5.5
local postgres
local "all"
residency cn,de
"#;

fn rules(text: &str) -> Rules {
    let file = parse(text);
    let errors: Vec<_> = file.errors().collect();
    assert!(errors.is_empty(), "{errors:?}");
    file.rules().unwrap()
}

fn at(number: u32) -> Option<LineNumber> {
    Some(LineNumber { file: None, number })
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn region_of(rules: &Rules, address: &str) -> Option<(u32, String)> {
    rules
        .by_address(ip(address))
        .map(|evidence| (evidence.line.number, evidence.place.region.clone()))
}

fn only_error(text: &str) -> (u32, String) {
    let file = parse(text);
    let errors: Vec<_> = file
        .errors()
        .map(|(n, e)| (n.number, e.to_owned()))
        .collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(file.rules().is_none());
    errors.into_iter().next().unwrap()
}

#[test]
fn the_most_specific_network_wins() {
    let rules = rules(FILE);
    assert_eq!(region_of(&rules, "10.86.1.1"), Some((10, "cn".into())));
    assert_eq!(region_of(&rules, "10.86.9.1"), Some((11, "us".into())));
    assert_eq!(region_of(&rules, "10.87.0.1"), None);
    assert_eq!(region_of(&rules, "2001:db8:86::7"), Some((12, "cn".into())));
}

#[test]
fn mapped_addresses_are_ipv4_on_both_sides() {
    let rules = rules(FILE);
    assert_eq!(
        region_of(&rules, "::ffff:10.86.1.1"),
        Some((10, "cn".into()))
    );
    assert_eq!(region_of(&rules, "10.33.4.4"), Some((13, "de".into())));
}

#[test]
fn loopback_has_no_region_even_under_a_catch_all() {
    let rules = rules("region eu\nnetwork 0.0.0.0/0 eu\nnetwork ::/0 eu");
    assert_eq!(region_of(&rules, "127.0.0.1"), None);
    assert_eq!(region_of(&rules, "::1"), None);
    assert_eq!(region_of(&rules, "::ffff:127.0.0.1"), None);
    assert_eq!(region_of(&rules, "192.0.2.1"), Some((2, "eu".into())));
    assert_eq!(region_of(&rules, "2001:db8::1"), Some((3, "eu".into())));
}

#[test]
fn regions_nest() {
    let rules = rules(FILE);
    assert!(rules.within("de", "eu"));
    assert!(rules.within("eu", "eu"));
    assert!(!rules.within("eu", "de"));
    assert!(!rules.within("cn", "eu"));
    assert!(rules.within_any("de", &["cn", "eu"]));
    assert!(!rules.within("nowhere", "eu"));
}

#[test]
fn certificates_match_by_their_whole_name() {
    let rules = rules(FILE);
    let issuer = rules.by_issuer("/O=cn/CN=cn authority").unwrap();
    assert_eq!(
        (issuer.line.number, issuer.place.region.as_str()),
        (14, "cn")
    );
    assert_eq!(rules.by_issuer("/O=cn/CN=cn authority/CN=x"), None);
    let subject = rules.by_subject("/CN=a \"quoted\" name").unwrap();
    assert_eq!(subject.place.organisation.as_deref(), Some("Shop GmbH"));
}

#[test]
fn local_roles_poolers_and_residency_are_found() {
    let rules = rules(FILE);
    assert_eq!(rules.local("postgres"), at(17));
    assert_eq!(rules.local("all"), at(18)); // quoted: the role of that name
    assert_eq!(rules.local("app"), None);
    assert_eq!(rules.pooler(ip("10.86.5.5")), at(16));
    assert_eq!(rules.pooler(ip("10.86.5.6")), None);
    let (line, regions) = rules.residency().unwrap();
    assert_eq!((line.number, regions.join(",")), (19, "cn,de".to_owned()));
    let all = super::tests::rules("local all");
    assert_eq!(all.local("anybody"), at(1));
}

#[test]
fn a_node_knows_itself_by_its_addresses() {
    let rules = rules(FILE);
    let own = rules.own(None, false, &[ip("127.0.0.1"), ip("::ffff:10.33.0.1")]);
    assert_eq!(own.region.as_deref(), Some("de"));
    assert_eq!(own.organisation.as_deref(), Some("shop"));
    assert_eq!(own.line.map(|line| line.number), Some(9));
    let lost = rules.own(None, false, &[ip("192.0.2.1")]);
    assert_eq!(lost.region, None);
    assert!(lost.problem.unwrap().contains("no \"node\" line"));
    let two = rules.own(None, false, &[ip("10.33.0.1"), ip("10.86.0.1")]);
    assert_eq!(two.region, None);
    assert!(two.problem.unwrap().contains("lines 8 and 9"));
}

#[test]
fn the_setting_says_what_no_node_line_says_and_must_be_a_known_region() {
    let rules = rules(FILE);
    let own = rules.own(Some("cn"), false, &[ip("192.0.2.1")]);
    assert_eq!((own.region.as_deref(), own.line), (Some("cn"), None));
    let own = rules.own(Some("mars"), false, &[ip("192.0.2.1")]);
    assert_eq!((own.region, own.contradictory), (None, false));
    assert!(own.problem.unwrap().contains("\"mars\""));
    // Where both say the same, the line says whose node it is.
    let own = rules.own(Some("cn"), false, &[ip("10.86.0.1")]);
    assert_eq!(own.organisation.as_deref(), Some("shop"));
    assert_eq!(own.line.map(|line| line.number), Some(8));
}

#[test]
fn a_setting_that_contradicts_a_node_line_decides_nothing() {
    let rules = rules(FILE);
    for (setting, address) in [("cn", "10.33.0.1"), ("mars", "10.86.0.1")] {
        let own = rules.own(Some(setting), false, &[ip(address)]);
        assert_eq!((own.region, own.line), (None, None), "{setting}");
        assert!(own.contradictory, "{setting}");
        let problem = own.problem.unwrap();
        assert!(
            problem.contains(&format!("custodian.region is \"{setting}\", but line ")),
            "{problem}"
        );
    }
    // A setting settles no contradiction between lines.
    let two = rules.own(Some("cn"), false, &[ip("10.33.0.1"), ip("10.86.0.1")]);
    assert_eq!((two.region, two.contradictory), (None, true));
}

#[test]
fn a_setting_and_a_node_line_agree_where_one_region_lies_in_the_other_and_the_inner_counts() {
    let inner_line = rules(FILE).own(Some("eu"), false, &[ip("10.33.0.1")]);
    assert_eq!(inner_line.region.as_deref(), Some("de"));
    assert_eq!(inner_line.line.map(|line| line.number), Some(9));
    // No line says the inner one, so that it is a finding where a copy of the files brought it.
    let outer = FILE.replace("node 10.33.0.1 de", "node 10.33.0.1 eu");
    assert_ne!(outer, FILE);
    let inner_setting = rules(&outer).own(Some("de"), false, &[ip("10.33.0.1")]);
    assert_eq!(
        (inner_setting.region.as_deref(), inner_setting.line),
        (Some("de"), None)
    );
    assert_eq!(inner_setting.organisation, inner_line.organisation);
    // One that goes with copies does not narrow what the line says of this machine; nor need it, where the line is narrower.
    let copied = rules(&outer).own(Some("de"), true, &[ip("10.33.0.1")]);
    assert_eq!((copied.region, copied.contradictory), (None, true));
    let inner_line = rules(FILE).own(Some("eu"), true, &[ip("10.33.0.1")]);
    assert_eq!(inner_line.region.as_deref(), Some("de"));
}

#[test]
fn every_wrong_line_is_reported_with_its_number() {
    let file =
        parse("region cn\nnetwork 10.0.0.0/8\nnetwrk x\n\nlocal\nregion CN\nnode nowhere cn");
    let errors: Vec<_> = file.errors().map(|(line, _)| line.number).collect();
    assert_eq!(errors, [2, 3, 5, 6, 7]);
    assert_eq!(file.lines.len(), 6);
    assert_eq!(file.rules(), None);
}

#[test]
fn mistakes_are_named() {
    for (text, line, part) in [
        ("region cn\nregion cn", 2, "line 1 already"),
        (
            "region cn\nregion us\nnetwork 10.0.0.0/8 cn\nnetwork 10.0.0.0/8 us",
            4,
            "line 3 already",
        ),
        (
            "region cn\nnetwork 10.0.0.0/8 cn\nnetwork ::ffff:10.0.0.0/104 cn",
            3,
            "line 2 already",
        ),
        ("network 10.0.0.0/8 cn", 1, "no region \"cn\""),
        ("region cn\nresidency cn,us", 2, "no region \"us\""),
        ("region de in eu", 1, "no region \"eu\""),
        ("region a in a", 1, "lies in itself"),
        (
            "region cn\nnetwork 10.0.0.1/8 cn",
            2,
            "did you mean 10.0.0.0/8?",
        ),
        ("region cn\nnetwork 127.0.0.0/8 cn", 2, "no region"),
        ("region cn\nnode 127.0.0.1 cn", 2, "custodian.region"),
        ("region cn\nissuer \"/CN=x cn", 2, "not closed"),
        ("region cn extra", 1, "[in PARENT]"),
        (
            "region cn\nnetwork 10.0.0.0/8 cn a b",
            2,
            "one word too many",
        ),
        ("\"region\" cn", 1, "no type of rule"),
        ("region cn\nresidency cn,cn", 2, "named twice"),
        ("local a b", 1, "one word too many"),
        ("region cn\nresidency cn\nresidency cn", 3, "line 2 already"),
    ] {
        let (number, error) = only_error(text);
        assert_eq!(number, line, "{text}");
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn circles_are_refused_on_every_line_of_them() {
    let file = parse("region a in b\nregion b in c\nregion c in a\nregion d in a");
    let errors: Vec<_> = file.errors().map(|(line, _)| line.number).collect();
    assert_eq!(errors, [1, 2, 3]);
}

#[test]
fn nothing_and_comments_are_valid_files() {
    for text in ["", "\n\n", "# region x", "\u{feff}# mark", "   \t\r\n"] {
        assert_eq!(parse(text).rules(), Some(Rules::default()), "{text:?}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(text in any::<String>()) {
        let file = parse(&text);
        if let Some(rules) = file.rules() {
            let _ = rules.own(None, false, &[ip("10.0.0.1")]);
            let _ = rules.by_address(ip("10.0.0.1"));
        }
    }

    #[test]
    fn words_in_any_order_never_panic(
        words in proptest::collection::vec(
            prop_oneof![
                Just("region"), Just("node"), Just("network"), Just("issuer"), Just("subject"),
                Just("pooler"), Just("local"), Just("residency"), Just("in"), Just("\n"), Just("\""),
                Just("cn"), Just("eu"), Just("10.0.0.0/8"), Just("::/0"), Just("all"), Just("#"), Just(",")
            ],
            0..40,
        )
    ) {
        let text = words.join(" ");
        if let Some(rules) = parse(&text).rules() {
            let _ = rules.within("cn", "eu");
        }
    }

    #[test]
    fn a_longer_prefix_always_wins(a in 1u8..=31, b in 1u8..=31, host in any::<u32>()) {
        prop_assume!(a != b);
        let address = IpAddr::from(std::net::Ipv4Addr::from(host));
        prop_assume!(!super::lookup::is_loopback(address));
        let net = |length: u8| ipnet::IpNet::new(address, length).unwrap().trunc();
        let text = format!("region x\nregion y\nnetwork {} x\nnetwork {} y", net(a), net(b));
        let file = parse(&text);
        // A network that lies wholly in loopback is refused; nothing to compare then.
        if let Some(rules) = file.rules() {
            let expected = if a > b { "x" } else { "y" };
            prop_assert_eq!(rules.by_address(address).unwrap().place.region.as_str(), expected);
        }
    }
}

#[test]
fn a_text_of_any_size_is_read_in_little_time_and_memory() {
    let chain = |regions: usize| -> String {
        (0..regions)
            .map(|n| format!("region r{n} in r{}\n", n + 1))
            .chain([format!("region r{regions}")])
            .collect()
    };
    assert!(parse(&chain(16)).rules().is_some());
    // Once every line walked the whole chain.
    let errors: Vec<_> = parse(&chain(90_000))
        .errors()
        .map(|(line, error)| (line.number, error.to_owned()))
        .collect();
    assert_eq!(errors.len(), 90_000 - 16);
    assert_eq!(
        errors[0],
        (1, "region \"r0\" lies in more than 16 others".to_owned())
    );
    assert!(only_error(&"x ".repeat(2000)).1.contains("1024 words"));
    assert!(
        only_error(&"# a comment\n".repeat(1 << 20))
            .1
            .contains("bytes")
    );
}
