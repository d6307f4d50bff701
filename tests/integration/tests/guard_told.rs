//! What the region guard tells: nothing of tagged values in errors, one record of a standby that keeps coming back, and a
//! finding where a node does not know where it is, or has it from the node that it was copied from. One machine, but for that; the role
//! `postgres` is local, others are from outside.

use integration::{Cluster, Net, Result, Sql, Stop, needs_net, wait_until};

/// A value of a tagged column.
const CANARY: &str = "canary-4711@example.com";

fn node(conf: &str) -> Result<Cluster> {
    let node = Cluster::builder("told")
        .preload("pg_custodian")
        .conf(conf)
        .start()?;
    node.write_file(
        "custodian_regions.conf",
        "region cn\nregion eu\nlocal postgres\n",
    )?;
    node.reload()?;
    node.exec("CREATE EXTENSION pg_custodian")?;
    Ok(node)
}

#[test]
fn details_of_errors_show_a_session_outside_only_what_it_sent() -> Result<()> {
    let node = node("custodian.region = 'cn'")?;
    node.exec(&format!(
        "CREATE ROLE away LOGIN SUPERUSER;
         CREATE TABLE customer (id int PRIMARY KEY, email text);
         INSERT INTO customer VALUES (1, '{CANARY}');
         SELECT custodian.define_purpose('shop.orders', 'contract', '1 year');
         SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{{shop.orders}}', residency => '{{cn}}');
         SELECT custodian.clear_column('customer', 'id');
         CREATE TABLE entry (id int PRIMARY KEY, email text, CHECK (email IS NULL));
         CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
             BEGIN NEW.email := (SELECT email FROM customer LIMIT 1); RETURN NEW; END $$;
         CREATE TRIGGER fill BEFORE INSERT ON entry FOR EACH ROW WHEN (NEW.id > 9) EXECUTE FUNCTION fill()",
    ))?;
    // The error that would show it: the detail has the row that the trigger filled.
    let insert = "INSERT INTO entry VALUES (10)";
    assert!(node.client()?.refused(insert).to_string().contains(CANARY));
    let caught = format!(
        "DO $$ DECLARE d text; BEGIN {insert}; EXCEPTION WHEN OTHERS THEN
             GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL; RAISE NOTICE 'caught: %', d; END $$"
    );
    let said = |role: &str, sql: &str| -> Result<String> {
        let output = node.psql_as(role, "postgres", sql)?;
        Ok(format!("{output:?}"))
    };
    assert!(said("postgres", &caught)?.contains(CANARY));

    node.alter_system("custodian.enforce", "on")?;
    let text = said("away", insert)?;
    assert!(text.contains("reading") && !text.contains(CANARY), "{text}");
    let text = said("away", &caught)?;
    assert!(
        text.contains("caught: ") && !text.contains(CANARY),
        "{text}"
    );
    // Its own values come back to it.
    node.exec("INSERT INTO entry VALUES (2)")?;
    let text = said("away", "INSERT INTO entry VALUES (2)")?;
    assert!(text.contains("Key (id)=(2) already exists"), "{text}");
    let text = said("away", "INSERT INTO entry VALUES (3, 'mine')")?;
    assert!(text.contains("Failing row contains (3, mine)"), "{text}");
    // What is refused is on record without values.
    assert!(
        !node
            .text("SELECT string_agg(e::text, ' ') FROM custodian.guard_events e")?
            .contains(CANARY)
    );
    Ok(())
}

#[test]
fn a_standby_that_keeps_coming_back_is_recorded_once_with_a_count() -> Result<()> {
    let node = node("custodian.region = 'cn'")?;
    node.exec("CREATE ROLE copy LOGIN REPLICATION")?;
    // It follows while the guard only warns.
    let standby = node
        .standby("standby")
        .copy_locally()
        .replication_role("copy")
        .start()?;
    node.alter_system("custodian.enforce", "on")?;
    wait_until("the standby has come back several times", 120, || {
        node.text(
            "SELECT coalesce(sum(count), 0) >= 6 FROM custodian.guard_events
             WHERE gate = 'login' AND role = 'copy' AND outcome = 'refused'",
        )
        .is_ok_and(|enough| enough == "t")
    });
    // The first one is handed to the ledger at once, the next ones within an hour.
    assert_eq!(
        node.text(
            "SELECT count(*) <= 2, count(DISTINCT (outcome, role, peer, object, reason))
             FROM custodian.guard_events WHERE gate = 'login' AND role = 'copy' AND outcome = 'refused'"
        )?,
        "t|1"
    );
    assert!(standby.log().contains("is not allowed"));
    Ok(())
}

#[test]
fn a_node_that_does_not_know_its_region_is_a_finding() -> Result<()> {
    let node = node("custodian.enforce = 'on'")?;
    let finding =
        "SELECT severity || ': ' || problem FROM custodian.check() WHERE code = 'region-unknown'";
    assert_eq!(
        node.text(finding)?,
        "error: The region of this node is unknown: no \"node\" line names an address of this node."
    );
    node.alter_system("custodian.region", "fr")?;
    node.restart()?;
    assert!(
        node.text(finding)?
            .contains("which the rules do not define")
    );
    node.alter_system("custodian.region", "eu")?;
    node.restart()?;
    assert_eq!(node.text(finding)?, "");
    // It lies where a copy takes it along, now that ALTER SYSTEM has put it there.
    assert_eq!(
        node.text(INHERITED)?,
        "warning: custodian.region is set in \"postgresql.auto.conf\""
    );
    // On the command line it is the machine's own, whatever the file still says.
    node.stop(Stop::Fast)?;
    node.start_under(&[
        "sh".to_owned(),
        "-c".to_owned(),
        "exec \"$@\" -c custodian.region=cn".to_owned(),
        "sh".to_owned(),
    ])?;
    assert_eq!(node.text("SELECT region FROM custodian.status")?, "cn");
    assert_eq!(node.text(INHERITED)?, "");
    Ok(())
}

/// What `custodian.check()` says of a region that copies of the data directory take along.
const INHERITED: &str = "SELECT string_agg(severity || ': ' || split_part(problem, ',', 1), '; ')
                         FROM custodian.check() WHERE code = 'region-in-data-directory'";

#[test]
fn a_standby_elsewhere_does_not_keep_the_region_that_it_was_copied_with() -> Result<()> {
    needs_net!();
    let net = Net::new(&["cn-a", "eu-a"])?;
    let (near, far) = (net.at("cn-a").address(), net.at("eu-a").address());
    let rules = format!(
        "region cn\nregion eu\nlocal postgres\nnetwork {} cn\nnetwork {} eu\n",
        net.network("cn"),
        net.network("eu")
    );
    let primary = Cluster::builder("primary")
        .preload("pg_custodian")
        .place(net.at("cn-a"))
        .conf("custodian.region = 'cn'")
        .file("custodian_regions.conf", &rules)
        .start()?;
    primary.exec(&format!(
        "CREATE EXTENSION pg_custodian;
         CREATE TABLE customer (id int PRIMARY KEY, email text);
         INSERT INTO customer VALUES (1, '{CANARY}');
         SELECT custodian.define_purpose('shop.orders', 'contract', '1 year');
         SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{{shop.orders}}', residency => '{{cn}}');
         SELECT custodian.clear_column('customer', 'id')",
    ))?;
    primary.alter_system("custodian.enforce", "on")?;
    assert_eq!(
        primary.text(INHERITED)?,
        "warning: custodian.region is set in \"postgresql.conf\""
    );

    // A real base backup, started in the other region. Nothing but the copy says where it is: it is told that, and to look.
    let standby = primary
        .standby("standby")
        .place(net.at("eu-a"))
        .copy_locally()
        .start()?;
    let read = "SELECT email FROM customer";
    let place = "SELECT region FROM custodian.status";
    assert_eq!(standby.text(place)?, "cn");
    assert_eq!(standby.text(read)?, CANARY);
    assert_eq!(
        standby.text(INHERITED)?,
        "error: custodian.region is set in \"postgresql.conf\""
    );
    let warning = "this node may have taken over the region of the node that it was copied from";
    assert!(standby.log().contains(warning));
    assert!(!primary.log().contains(warning));

    // An address that the machine gets later counts in the sessions that come then.
    let late = "10.33.9.9";
    let claimed = format!("{rules}node {near} cn\nnode {late} eu\n");
    standby.write_file("custodian_regions.conf", &claimed)?;
    standby.restart()?;
    assert_eq!(standby.text(place)?, "cn");
    net.at("eu-a").add_address(late)?;
    assert_eq!(standby.text(place)?, "");
    assert_eq!(
        standby.text(
            "SELECT remedy ~ 'custodian.region, .* and restart the server' FROM custodian.check() WHERE code = 'region-unknown'"
        )?,
        "t"
    );

    // One file of rules for all nodes says otherwise: the claim counts for nothing, and the node serves nobody.
    let all = format!("{rules}node {near} cn\nnode {far} eu\n");
    for node in [&primary, &standby] {
        node.write_file("custodian_regions.conf", &all)?;
        node.reload()?;
    }
    let told = "custodian.region is \"cn\", but line 7 names an address of this node and puts it in \"eu\"";
    wait_until("the standby has the rules", 60, || {
        standby.text(place).is_ok_and(|region| region.is_empty())
    });
    assert_eq!(
        standby.text(
            "SELECT severity, problem FROM custodian.check() WHERE code = 'region-unknown'"
        )?,
        format!("error|The region of this node is unknown: {told}.")
    );
    let refused = standby.client()?.refused(read);
    assert_eq!(refused.sqlstate(), "42501", "{refused}");
    assert!(
        refused
            .to_string()
            .contains("The region of this standby is unknown.")
    );
    for peer in [near, far] {
        let said = standby.text(&format!(
            "SELECT verdict, reason FROM custodian.check_peer(address => '{peer}')"
        ))?;
        assert_eq!(
            said,
            format!("unknown|The region of this node is unknown: {told}.")
        );
    }
    let dump = standby.program("pg_dump")?.args(["-t", "customer"]).run()?;
    assert!(!dump.success() && !dump.all().contains(CANARY), "{dump}");
    // On the primary both agree, and its line goes with no copy.
    assert_eq!(primary.text(place)?, "cn");
    assert_eq!(primary.text(read)?, CANARY);
    assert_eq!(primary.text(INHERITED)?, "");

    // Without the claim the standby goes by its line. A file of the machine's own, outside of the data directory, is no finding.
    standby.append_conf("custodian.region = ''")?;
    standby.restart()?;
    assert_eq!(standby.text(place)?, "eu");
    let own = standby.dir().join("region.conf");
    std::fs::write(&own, "custodian.region = 'eu'\n")?;
    integration::host::give(&own)?;
    standby.append_conf(&format!("include_if_exists = '{}'", own.display()))?;
    standby.write_file("custodian_regions.conf", &rules)?;
    standby.restart()?;
    assert_eq!(standby.text(place)?, "eu");
    assert_eq!(standby.text(INHERITED)?, "");
    let refused = standby.client()?.refused(read).to_string();
    assert!(
        refused.contains("This standby is in region \"eu\"."),
        "{refused}"
    );
    Ok(())
}
