//! Tokens: who holds one may publish.
//!
//! Sent as `Authorization: Bearer <token>` (RFC 6750 §2.1). Kept in a file that only its owner can read, one
//! `<token> [repo…]` a line; `#` starts a comment. A hub reads all lines, a client uses the first token.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reqwest::header::HeaderValue;

use super::name::check_component;
use crate::private_file::{self, NotPrivate};

/// Shortest token, in characters; 16 of them, chosen at random, have some 96 bits.
const MIN_LENGTH: usize = 16;

/// Longest token, in characters.
const MAX_LENGTH: usize = 512;

/// Longest token file, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The text is no token. It is not repeated, because it may be a secret.
    #[error(
        "this is not a token: expected {MIN_LENGTH} to {MAX_LENGTH} letters, digits and -._~+/=; make one with: openssl rand -hex 32"
    )]
    Shape,
    /// The file cannot be read.
    #[error("cannot read token file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The file is not fit to hold secrets.
    #[error("token file {path} {problem}")]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the remedy.
        problem: String,
    },
    /// A line of the file cannot be used.
    #[error("line {line} of token file {path} {problem}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The file has no token in it.
    #[error("there is no token in token file {0}")]
    Empty(PathBuf),
}

/// A secret that lets its holder publish. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    secret: String,
    header: HeaderValue,
}

impl Token {
    /// The first token of a file.
    ///
    /// # Errors
    /// The file cannot be read, others than its owner can, or it has no usable token.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let (grants, _) = read_grants(path)?;
        grants.into_iter().next().map(|grant| grant.token).ok_or_else(|| TokenError::Empty(path.to_owned()))
    }

    /// The value of the header `Authorization`.
    pub(crate) fn authorization(&self) -> HeaderValue {
        self.header.clone()
    }

    #[cfg(feature = "server")]
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if !(MIN_LENGTH..=MAX_LENGTH).contains(&text.len()) || !text.bytes().all(allowed) {
            return Err(TokenError::Shape);
        }
        let mut header = HeaderValue::try_from(format!("Bearer {text}")).map_err(|_| TokenError::Shape)?;
        header.set_sensitive(true);
        Ok(Self { secret: text.to_owned(), header })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its length tells nothing and shows that there is one.
        write!(f, "Token({} characters)", self.secret.len())
    }
}

/// One line of a token file.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) token: Token,
    /// The repos that may be changed with it; none means all.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only a hub needs to know"))]
    pub(crate) repos: Vec<String>,
}

/// Reads a token file, and what identifies the version of it that was read.
///
/// # Errors
/// [`TokenError`].
pub(crate) fn read_grants(path: &Path) -> Result<(Vec<Grant>, Metadata), TokenError> {
    let failed = |source| TokenError::File { path: path.to_owned(), source };
    let (file, metadata) = private_file::open(path, MAX_FILE).map_err(|error| match error {
        NotPrivate::Open(source) => failed(source),
        NotPrivate::Unsafe(problem) => TokenError::Unsafe { path: path.to_owned(), problem },
    })?;
    let text = read_text(file).map_err(failed)?;
    Ok((parse_grants(path, &text)?, metadata))
}

fn read_text(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

fn parse_grants(path: &Path, text: &str) -> Result<Vec<Grant>, TokenError> {
    let mut grants = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        let refused = |problem: String| TokenError::Line { path: path.to_owned(), line, problem };
        let mut words = content.split('#').next().unwrap_or_default().split_whitespace();
        let Some(token) = words.next() else { continue };
        let token: Token = token.parse().map_err(|_| {
            refused(format!(
                "has something that is no token: expected {MIN_LENGTH} to {MAX_LENGTH} letters, digits and -._~+/=; make one with: openssl rand -hex 32"
            ))
        })?;
        let repos: Vec<String> = words.map(str::to_owned).collect();
        if let Some(repo) = repos.iter().find(|repo| check_component(repo).is_err()) {
            return Err(refused(format!("names '{}', which is no repo", repo.escape_debug())));
        }
        grants.push(Grant { token, repos });
    }
    Ok(grants)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SECRET: &str = "0123456789abcdef0123";

    #[test]
    fn tokens_are_never_shown() {
        let token: Token = SECRET.parse().unwrap();
        assert_eq!(token.authorization().to_str().unwrap(), format!("Bearer {SECRET}"));
        assert!(!format!("{token:?} {:?}", token.authorization()).contains(SECRET));
        for bad in ["", "short", "0123456789abcdef 0123", "0123456789abcdef\n", &"x".repeat(513)] {
            let error = bad.parse::<Token>().unwrap_err().to_string();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn lines_of_a_file() {
        let text = format!("# comment\n\n{SECRET}   # all\n{SECRET}x tf-zos a.b\n");
        let grants = parse_grants(Path::new("t"), &text).unwrap();
        let repos: Vec<_> = grants.iter().map(|grant| grant.repos.join(",")).collect();
        assert_eq!(repos, ["", "tf-zos,a.b"]);
        for (bad, line) in
            [("short", 1), (&*format!("{SECRET}\n\nbad!{SECRET} x"), 3), (&*format!("{SECRET} ../x"), 1)]
        {
            match parse_grants(Path::new("t"), bad) {
                Err(error @ TokenError::Line { .. }) => {
                    assert!(error.to_string().starts_with(&format!("line {line} of")), "{error}");
                    assert!(!error.to_string().contains(SECRET), "{error}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn files_that_others_can_read_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, SECRET).unwrap();
        for (mode, fine) in [(0o600, true), (0o400, true), (0o640, false), (0o602, false)] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(Token::read(&path).is_ok(), fine, "{mode:o}");
        }
        assert!(matches!(Token::read(directory.path()), Err(TokenError::Unsafe { .. })));
        assert!(matches!(Token::read(&directory.path().join("none")), Err(TokenError::File { .. })));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(&path, "# nothing\n").unwrap();
        assert!(matches!(Token::read(&path), Err(TokenError::Empty(_))));
    }
}
