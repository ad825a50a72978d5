//! `docs/agent-states.dot`, drawn from the table.

use std::fmt::Write;
use std::path::Path;

use super::{GROUPS, LOOKED_AT_REST, STAGES, TABLE};

/// The table in Graphviz' language.
fn drawing() -> String {
    let mut dot = String::from(
        "// The stages of identityd's agent and what leads from one to the next. Drawn from the table of\n\
         // transitions in identityd/src/agent/state/tests.rs; after a change there:\n\
         //   MOLT_DRAW=1 cargo test -p identityd agent_states_dot\n\
         digraph agent {\n  compound=true;\n  rankdir=LR;\n  node [shape=box, style=rounded];\n  start [shape=point];\n",
    );
    let label = |name: &str| {
        if STAGES.iter().any(|(stage, _)| stage.as_str() == name) {
            name.to_owned()
        } else {
            format!("Waiting\\n({name})")
        }
    };
    for (group, members) in GROUPS {
        writeln!(dot, "  subgraph cluster_{group} {{\n    label=\"{group}\";").unwrap();
        for name in *members {
            writeln!(dot, "    {name} [label=\"{}\"];", label(name)).unwrap();
        }
        dot.push_str("  }\n");
    }
    for name in ["Starting", "FlistName", "Resolving", "Degraded"] {
        writeln!(dot, "  {name} [label=\"{}\"];", label(name)).unwrap();
    }
    dot.push_str("  start -> Starting;\n");
    let looked = [("Starting", "looks"), ("FlistName", "")].into_iter().flat_map(|(name, condition)| {
        LOOKED_AT_REST.iter().map(move |row| (name, condition, row.2, row.3, row.4))
    });
    for (from, condition, events, to, actions) in TABLE.iter().copied().chain(looked) {
        let group = GROUPS.iter().find(|(group, _)| *group == from);
        let mut text = events.join("\\n");
        if !condition.is_empty() {
            write!(text, "\\n[{condition}]").unwrap();
        }
        for action in actions {
            write!(text, "\\n/ {action:?}").unwrap();
        }
        let (source, tail) = match group {
            // Graphviz needs a node: the one in the middle, cut off at the box.
            Some((group, members)) => (members[2], format!(", ltail=cluster_{group}")),
            None => (from, String::new()),
        };
        writeln!(dot, "  {source} -> {to} [label=\"{text}\"{tail}];").unwrap();
    }
    dot.push_str("}\n");
    dot
}

#[test]
fn agent_states_dot_shows_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/agent-states.dot");
    if std::env::var_os("MOLT_DRAW").is_some() {
        std::fs::write(&path, drawing()).unwrap();
    }
    let drawn = std::fs::read_to_string(&path).unwrap();
    assert_eq!(drawn, drawing(), "draw it again: MOLT_DRAW=1 cargo test -p identityd agent_states_dot");
}
