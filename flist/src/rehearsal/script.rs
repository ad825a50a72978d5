//! The first line of a script. Pure.

/// Bytes at the start of a file that the kernel looks at (`BINPRM_BUF_SIZE`).
pub(super) const HEAD: usize = 256;

/// What the first line of a script says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shebang {
    /// The interpreter.
    pub(super) interpreter: Vec<u8>,
    /// Everything behind it, which the kernel passes as one argument.
    pub(super) argument: Option<Vec<u8>>,
}

/// Reads the line from the first [`HEAD`] bytes of a file; `None` when it is no script.
///
/// # Errors
/// Why the kernel, or what it starts, cannot use the line.
pub(super) fn shebang(head: &[u8]) -> Result<Option<Shebang>, &'static str> {
    let head = &head[..head.len().min(HEAD)];
    let Some(rest) = head.strip_prefix(b"#!") else { return Ok(None) };
    let end = rest.iter().position(|byte| *byte == b'\n');
    let line = match end {
        Some(end) => &rest[..end],
        // Of a longer line the kernel uses what it has read, less the last byte.
        None if head.len() == HEAD => &rest[..rest.len() - 1],
        None => rest,
    };
    if line.ends_with(b"\r") {
        return Err("its first line ends with CR LF; write its lines with LF alone");
    }
    let line = line.split(|byte| *byte == 0).next().unwrap_or_default().trim_ascii();
    let stop = line.iter().position(|byte| matches!(byte, b' ' | b'\t'));
    if end.is_none() && head.len() == HEAD && stop.is_none() {
        return Err("its first line is longer than the 255 bytes that the kernel reads; shorten it");
    }
    let (interpreter, argument) = line.split_at(stop.unwrap_or(line.len()));
    if interpreter.is_empty() {
        return Err("its first line names no interpreter after #!");
    }
    let argument = argument.trim_ascii();
    Ok(Some(Shebang {
        interpreter: interpreter.to_vec(),
        argument: (!argument.is_empty()).then(|| argument.to_vec()),
    }))
}

/// The program that `env` looks for when it gets `argument`; `None` when that cannot be told.
pub(super) fn env_program(argument: &[u8]) -> Option<Vec<u8>> {
    let words: Vec<&[u8]> = match argument.strip_prefix(b"-S") {
        Some(words) => words.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect(),
        None => vec![argument],
    };
    let word = words.into_iter().find(|word| !word.contains(&b'=') && *word != b"-i" && *word != b"--")?;
    let plain =
        !word.starts_with(b"-") && !word.iter().any(|byte| matches!(byte, b'$' | b'\\' | b'"' | b'\''));
    plain.then(|| word.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(head: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
        let line = shebang(head).unwrap().unwrap();
        (line.interpreter, line.argument)
    }

    #[test]
    fn lines_are_split_as_the_kernel_does() {
        assert_eq!(parsed(b"#!/bin/sh\n"), (b"/bin/sh".to_vec(), None));
        assert_eq!(parsed(b"#! /bin/sh -e \nx"), (b"/bin/sh".to_vec(), Some(b"-e".to_vec())));
        assert_eq!(parsed(b"#!/usr/bin/env a b"), (b"/usr/bin/env".to_vec(), Some(b"a b".to_vec())));
        assert_eq!(parsed(b"#!sh"), (b"sh".to_vec(), None));
        let mut long = b"#!/bin/sh ".to_vec();
        long.resize(400, b'x');
        assert_eq!(parsed(&long).0, b"/bin/sh");
        assert_eq!(shebang(b"\x7fELF").unwrap(), None);
    }

    #[test]
    fn lines_that_cannot_be_used() {
        let long = [b"#!/".to_vec(), vec![b'x'; 300]].concat();
        for bad in [&b"#!/bin/sh\r\n"[..], b"#!/bin/sh -e\r\n", b"#!\n", b"#!  \t\n", b"#!", &long] {
            assert!(shebang(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn what_env_looks_for() {
        let program = |text: &str| env_program(text.as_bytes()).map(|name| String::from_utf8(name).unwrap());
        assert_eq!(program("python3").as_deref(), Some("python3"));
        assert_eq!(program("python3 -u").as_deref(), Some("python3 -u"), "the kernel passes one argument");
        assert_eq!(program("-S python3 -u").as_deref(), Some("python3"));
        assert_eq!(program("-S A=b -i perl").as_deref(), Some("perl"));
        assert_eq!(program("-S -u X perl"), None);
        assert_eq!(program("A=b"), None);
    }
}
