//! JSON as Python's `json.dumps` writes it, because clients of the 0-hub compare it as text: `", "` and
//! `": "` between the parts, everything but printable ASCII as `\uXXXX`, and a newline at the end.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

/// Renders a value.
///
/// # Errors
/// The value cannot be JSON, such as a map whose keys are no strings.
pub(super) fn render<T: Serialize + ?Sized>(value: &T) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    write(value, &mut bytes)?;
    String::from_utf8(bytes).map_err(|error| serde_json::Error::io(io::Error::other(error)))
}

/// Writes a value that may be too large to have it in memory as text.
///
/// # Errors
/// As [`render`], or those of the writer.
pub(super) fn write<T: Serialize + ?Sized>(value: &T, mut out: impl Write) -> Result<(), serde_json::Error> {
    value.serialize(&mut Serializer::with_formatter(&mut out, Python))?;
    out.write_all(b"\n").map_err(serde_json::Error::io)
}

struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        for c in text.chars() {
            if (' '..='~').contains(&c) {
                write!(writer, "{c}")?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_pythons() {
        let value = serde_json::json!([{"a": 1, "b": [true, null]}, "x\"y\n", "é😀\x7f", []]);
        let expected = r#"[{"a": 1, "b": [true, null]}, "x\"y\n", "\u00e9\ud83d\ude00\u007f", []]"#;
        assert_eq!(render(&value).unwrap(), format!("{expected}\n"));
    }
}
