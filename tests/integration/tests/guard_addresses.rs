//! Where a node and its peers are by their addresses, also of version 6, and while those of the node change or cannot be read.

use integration::{
    Builder, Cluster, LostAddresses, Net, Place, Result, Sql, needs_net, wait_for, wait_until,
};

const CANARY: &str = "canary-4711";

/// A primary at `cn-a`, in region cn by a `node` line alone, with a tagged table and a role that comes over the network.
fn node(net: &Net, rules: &str, change: impl FnOnce(Builder) -> Builder) -> Result<Cluster> {
    let builder = Cluster::builder("node")
        .preload("pg_custodian")
        .place(net.at("cn-a"))
        .conf("custodian.disposal = off")
        .file(
            "custodian_regions.conf",
            &format!("region cn\nregion eu\nlocal postgres\n{rules}"),
        );
    let node = change(builder).start()?;
    node.exec(&format!(
        "CREATE EXTENSION pg_custodian; CREATE ROLE app LOGIN SUPERUSER REPLICATION;
         CREATE TABLE customer (id int PRIMARY KEY, email text);
         INSERT INTO customer VALUES (1, '{CANARY}');
         SELECT custodian.define_purpose('shop.orders', 'contract', '1 year');
         SELECT custodian.tag_column('customer', 'email', 'user.contact.email', '{{shop.orders}}', residency => '{{cn}}')"
    ))?;
    node.alter_system("custodian.enforce", "on")?;
    Ok(node)
}

#[test]
fn a_node_that_cannot_read_its_addresses_keeps_its_place_and_lets_nobody_new_in_until_it_can()
-> Result<()> {
    needs_net!();
    let net = Net::new(&["cn-a", "cn-b"])?;
    let lost = LostAddresses::new()?;
    let late = "10.33.9.9";
    let rules = format!(
        "node {} cn\nnode {late} eu\nnetwork {} cn\n",
        net.at("cn-a").address(),
        net.network("cn"),
    );
    let node = node(&net, &rules, |builder| {
        let set = lost.env().into_iter();
        set.fold(builder, |builder, (key, value)| builder.env(key, &value))
    })?;
    let near = net.at("cn-b");
    let read = "SELECT email FROM customer";
    let mut before = node.client_from(near, "app", "postgres")?;
    assert_eq!(before.text(read)?, CANARY);
    let receiver = node
        .program("pg_recvlogical")?
        .role("app")
        .from(near)
        .args(["-d", "postgres", "--slot=s", "-P", "test_decoding"])
        .args(["--create-slot", "--start", "--no-loop", "-f", "-"])
        .start()?;
    let walsenders = "SELECT count(*) FROM pg_stat_replication";
    wait_until("it streams", 60, || {
        node.text(walsenders).is_ok_and(|count| count == "1")
    });
    let launcher = wait_for("the launcher", 60, || {
        let pid = node
            .text("SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_custodian launcher'")
            .ok()?;
        (!pid.is_empty()).then_some(pid)
    });

    // The launcher looks in vain, more than once: what it knew stays, and what runs.
    lost.lose()?;
    node.reload()?;
    wait_until("the launcher has looked twice", 60, || {
        lost.tried_by(&launcher) >= 2
    });
    assert_eq!(node.text(walsenders)?, "1");
    assert_eq!(before.text(read)?, CANARY);
    // Who comes now is not known to be inside.
    let mut meanwhile = node.client_from(near, "app", "postgres")?;
    let refused = meanwhile.refused(read);
    assert_eq!(refused.sqlstate(), "42501", "{refused}");
    let said = refused.to_string();
    assert!(
        said.contains("the addresses of this machine cannot be read"),
        "{said}"
    );
    assert!(
        said.contains("HINT: See why the system does not tell"),
        "{said}"
    );
    assert!(!said.contains(CANARY), "{said}");
    let dump = node
        .program("pg_dump")?
        .role("app")
        .from(near)
        .args(["-t", "customer"])
        .run()?;
    assert!(!dump.success() && !dump.all().contains(CANARY), "{dump}");

    // As soon as they can be read the same session is where it is.
    lost.find()?;
    assert_eq!(meanwhile.text(read)?, CANARY);
    // Nor does a look that comes to nothing after one that did not.
    lost.flicker()?;
    node.reload()?;
    wait_until("the launcher has looked twice in vain", 60, || {
        lost.tried_by(&launcher) >= 2
    });
    assert_eq!(node.text(walsenders)?, "1");
    lost.find()?;

    // A look that succeeds counts: with an address that another line puts elsewhere, nobody is inside, and what runs is ended.
    net.at("cn-a").add_address(late)?;
    wait_until("the sentinel has ended it", 60, || {
        node.text(walsenders).is_ok_and(|count| count == "0")
    });
    let output = receiver.wait(60)?;
    assert!(!output.success(), "{output}");
    assert_eq!(
        node.text(
            "SELECT DISTINCT outcome FROM custodian.guard_events WHERE gate = 'sentinel' AND object = 'replication'
             AND reason LIKE '%contradict each other%'"
        )?,
        "refused"
    );
    Ok(())
}

/// The address of version 6 of `cn-a`.
const NODE: &str = "fd86::1";

/// What a peer gets to see by a program of PostgreSQL's, connected over version 6.
fn run(node: &Cluster, from: &Place, program: &str, arguments: &[&str]) -> Result<(bool, String)> {
    let run = node.program(program)?.role("app").from(from);
    let output = run.args(["-h", NODE]).args(arguments).run()?;
    Ok((output.success(), output.all()))
}

#[test]
fn peers_over_ipv6_are_judged_by_their_networks() -> Result<()> {
    needs_net!();
    let net = Net::new(&["cn-a", "cn-b", "eu"])?;
    let (near, far) = (net.at("cn-b"), net.at("eu"));
    for (place, address) in [(net.at("cn-a"), NODE), (near, "fd86::2"), (far, "fd33::1")] {
        place.add_address(address)?;
    }
    // No rule names an address of version 4, so all of it is told by those of version 6: also where the node is.
    let rules = "node fd86::1 cn\nnetwork fd86::/32 cn\nnetwork fd33::/32 eu\n";
    let node = node(&net, rules, |builder| {
        builder.conf("listen_addresses = '*'")
    })?;
    let status = node.text("SELECT region FROM custodian.status")?;
    assert_eq!(status, "cn");

    let read: &[&str] = &["-d", "postgres", "-c", "SELECT email FROM customer"];
    let copy: &[&str] = &["-D", "-", "-F", "tar", "-X", "fetch", "-c", "fast"];
    for (program, arguments) in [("psql", read), ("pg_basebackup", copy)] {
        let (lawful, seen) = run(&node, near, program, arguments)?;
        assert!(lawful && seen.contains(CANARY), "{program}: {seen}");
        let (lawful, seen) = run(&node, far, program, arguments)?;
        assert!(!lawful && !seen.contains(CANARY), "{program}: {seen}");
        assert!(seen.contains("fd33::1"), "{program}: {seen}");
    }
    let peer = node.text("SELECT verdict || ' ' || region FROM custodian.check_peer('fd86::7')")?;
    assert_eq!(peer, "inside cn");
    Ok(())
}
