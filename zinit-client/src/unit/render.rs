//! A unit as YAML text.

use super::{DEFAULT_SHUTDOWN_TIMEOUT, LogTarget, MoltSettings, ServiceUnit, SignalName, UnitName};

/// Writes `unit` with its keys in zinit's own order and those with a default left out.
///
/// Written by hand because it cannot fail that way, gives the same bytes whatever the YAML library
/// does, and every text is quoted: none can turn into a number, a truth value or an anchor.
pub(super) fn render(unit: &ServiceUnit) -> String {
    let mut out = String::new();
    text_line(&mut out, "exec", &unit.exec);
    if let Some(test) = &unit.test {
        text_line(&mut out, "test", test);
    }
    if unit.oneshot {
        out.push_str("oneshot: true\n");
    }
    if unit.shutdown_timeout != DEFAULT_SHUTDOWN_TIMEOUT {
        out.push_str(&format!("shutdown_timeout: {}\n", unit.shutdown_timeout));
    }
    if !unit.after.is_empty() {
        out.push_str("after:\n");
        list_lines(&mut out, "  ", unit.after.iter().map(UnitName::as_str));
    }
    if unit.stop_signal != SignalName::default() {
        out.push_str(&format!("signal:\n  stop: {}\n", unit.stop_signal));
    }
    match unit.log {
        LogTarget::Ring => {}
        LogTarget::None => out.push_str("log: none\n"),
        LogTarget::Stdout => out.push_str("log: stdout\n"),
    }
    if !unit.env.is_empty() {
        out.push_str("env:\n");
        for (key, value) in &unit.env {
            out.push_str(&format!("  {}: {}\n", quoted(key), quoted(value)));
        }
    }
    if let Some(dir) = &unit.dir {
        text_line(&mut out, "dir", dir);
    }
    if !unit.molt.is_default() {
        render_molt(&mut out, &unit.molt);
    }
    out
}

fn render_molt(out: &mut String, molt: &MoltSettings) {
    out.push_str("molt:\n");
    if let Some(seconds) = molt.health_window {
        out.push_str(&format!("  health_window: {seconds}\n"));
    }
    if !molt.uses.is_empty() {
        out.push_str("  uses:\n");
        list_lines(out, "    ", molt.uses.iter().map(String::as_str));
    }
    if let Some(milliseconds) = molt.downtime_budget {
        out.push_str(&format!("  downtime_budget: {milliseconds}\n"));
    }
}

fn text_line(out: &mut String, key: &str, value: &str) {
    out.push_str(&format!("{key}: {}\n", quoted(value)));
}

fn list_lines<'a>(out: &mut String, indent: &str, values: impl Iterator<Item = &'a str>) {
    for value in values {
        out.push_str(&format!("{indent}- {}\n", quoted(value)));
    }
}

/// A double-quoted YAML scalar; everything that YAML does not call printable is escaped, and so are
/// its line breaks.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(character),
            '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' => out.push(character),
            _ => {
                let code = u32::from(character);
                let escape = if code > 0xffff { format!("\\U{code:08x}") } else { format!("\\u{code:04x}") };
                out.push_str(&escape);
            }
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(unit: &ServiceUnit) -> ServiceUnit {
        let text = unit.render();
        ServiceUnit::parse(&"a".parse().unwrap(), &text).unwrap_or_else(|error| panic!("{error:?}\n{text}"))
    }

    #[test]
    fn a_full_unit_has_the_expected_text() {
        let unit = ServiceUnit {
            test: Some("true".to_owned()),
            oneshot: true,
            shutdown_timeout: 3,
            after: vec!["net".parse().unwrap()],
            stop_signal: SignalName::KILL,
            log: LogTarget::None,
            env: [("A".to_owned(), "1".to_owned())].into(),
            dir: Some("/srv".to_owned()),
            molt: MoltSettings {
                health_window: Some(30),
                uses: vec!["/etc/*".to_owned()],
                downtime_budget: Some(250),
            },
            ..ServiceUnit::new("run --it")
        };
        let expected = r#"exec: "run --it"
test: "true"
oneshot: true
shutdown_timeout: 3
after:
  - "net"
signal:
  stop: SIGKILL
log: none
env:
  "A": "1"
dir: "/srv"
molt:
  health_window: 30
  uses:
    - "/etc/*"
  downtime_budget: 250
"#;
        assert_eq!(unit.render(), expected);
        assert_eq!(round_trip(&unit), unit);
        assert_eq!(ServiceUnit::new("a").render(), "exec: \"a\"\n");
    }

    #[test]
    fn any_text_survives_the_round_trip() {
        for text in [
            "true",
            "1.0",
            "~",
            "&a *b !c",
            "a: b # c",
            "'\"\\",
            "two\nlines\r\n\ttabbed ",
            " spaces around ",
            "bell \u{7} del \u{7f} nel \u{85} bom \u{feff} nul \0",
            "line separators \u{2028} \u{2029}",
            "ünïcode 日本 🦀 \u{10ffff}",
            "%TAG\n---\n...",
        ] {
            let mut unit = ServiceUnit::new(text);
            unit.test = Some(text.to_owned());
            unit.env.insert(text.to_owned(), text.to_owned());
            unit.molt.uses = vec![text.to_owned()];
            assert_eq!(round_trip(&unit), unit, "{text:?}");
        }
    }

    #[test]
    fn every_character_of_the_first_plane_survives() {
        let text: String = (1..=0xffff_u32).filter_map(char::from_u32).collect();
        for piece in text.chars().collect::<Vec<_>>().chunks(4096) {
            let unit = ServiceUnit::new(piece.iter().collect::<String>());
            assert_eq!(round_trip(&unit), unit);
        }
    }
}
