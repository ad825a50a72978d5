//! A web server that says what it is told to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What it answers.
#[derive(Clone)]
pub(crate) enum Answer {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Data that never ends.
    Endless,
    /// A byte now and then, for ever.
    Drip(Duration),
    /// The head of an answer, and nothing more.
    Silence,
    /// A status without a body.
    Status(u16),
}

#[derive(Clone, Default)]
pub(crate) struct Web {
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
    url: String,
}

impl Web {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let web = Self { url, ..Self::default() };
        let served = web.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                std::thread::spawn(move || served.serve(stream));
            }
        });
        web
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn put(&self, name: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(name.to_owned(), answer);
    }

    pub(crate) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        match self.answers.lock().unwrap().get(name) {
            Some(Answer::Bytes(bytes)) => Some(bytes.clone()),
            _ => None,
        }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.answers.lock().unwrap().keys().cloned().collect()
    }

    pub(crate) fn clear(&self) {
        self.answers.lock().unwrap().clear();
    }

    pub(crate) fn remove(&self, name: &str) {
        self.answers.lock().unwrap().remove(name);
    }

    /// What was asked for since the last call.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut stream = stream;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let name = line.split(' ').nth(1)?.trim_start_matches('/').to_owned();
            while reader.read_line(&mut line).ok()? > 2 {}
            self.asked.lock().unwrap().push(name.clone());
            let answer = self.answers.lock().unwrap().get(&name).cloned();
            let head = |length: &str| format!("HTTP/1.1 200 OK\r\n{length}\r\n");
            match answer.unwrap_or(Answer::Status(404)) {
                Answer::Bytes(bytes) => {
                    let head = head(&format!("Content-Length: {}\r\n", bytes.len()));
                    stream.write_all(head.as_bytes()).ok()?;
                    stream.write_all(&bytes).ok()?;
                }
                Answer::Status(status) => {
                    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                    stream.write_all(head.as_bytes()).ok()?;
                }
                Answer::Endless => {
                    stream.write_all(head("Connection: close\r\n").as_bytes()).ok()?;
                    loop {
                        stream.write_all(&[b' '; 64 * 1024]).ok()?;
                    }
                }
                Answer::Drip(pause) => {
                    stream.write_all(head("Connection: close\r\n").as_bytes()).ok()?;
                    loop {
                        stream.write_all(b" ").ok()?;
                        std::thread::sleep(pause);
                    }
                }
                Answer::Silence => {
                    stream.write_all(head("Content-Length: 100\r\n").as_bytes()).ok()?;
                    std::thread::sleep(Duration::from_secs(600));
                }
            }
        }
    }
}
