//! Downloads of flists: conditional, and resumed where the connection broke off.

use std::time::Duration;

use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, IF_RANGE, RANGE, TRANSFER_ENCODING};
use reqwest::{Response, StatusCode, Url};

use super::answer::{Download, Ending, Validators};
use super::client::HubClient;
use super::error::HubError;
use super::name::FlistName;

/// How often a download is resumed that breaks off.
const RESUMES: u32 = 8;

/// The pause before the first of them; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What has come of a content so far.
#[derive(Default)]
struct Partial {
    bytes: Vec<u8>,
    /// Length of all of it.
    total: Option<u64>,
    validators: Validators,
}

impl HubClient {
    /// Downloads a flist of at most `max_bytes`, unless it is still the one that `known` came with. Where the
    /// connection breaks off it goes on from there, as long as the hub has the same content.
    ///
    /// # Errors
    /// [`HubError::NotFound`], [`HubError::TooLong`], or the hub could not be used.
    pub async fn download(
        &self,
        name: &FlistName,
        known: Option<&Validators>,
        max_bytes: u64,
    ) -> Result<Download, HubError> {
        let url = self.address(&[name.repo(), name.file()]);
        let all = self.download_resuming(&url, name, known, max_bytes);
        match tokio::time::timeout(self.timeouts.transfer, all).await {
            Ok(downloaded) => downloaded,
            Err(_) => {
                let seconds = self.timeouts.transfer.as_secs();
                Err(HubError::Stalled { url: url.to_string(), seconds })
            }
        }
    }

    async fn download_resuming(
        &self,
        url: &Url,
        name: &FlistName,
        known: Option<&Validators>,
        max_bytes: u64,
    ) -> Result<Download, HubError> {
        let (mut partial, mut pause) = (Partial::default(), FIRST_PAUSE);
        let mut resumes = 0;
        loop {
            match self.next_part(url, name, known, &mut partial, max_bytes).await {
                Ok(Some(downloaded)) => return Ok(downloaded),
                Ok(None) if resumes < RESUMES => {}
                Ok(None) => return Err(HubError::Unsteady { url: url.to_string() }),
                Err(error) if resumes < RESUMES && error.is_retryable() && partial.range().is_some() => {
                    let got = partial.bytes.len();
                    tracing::warn!(%url, got, error = %crate::report(&error), "the download broke off, resuming it");
                }
                Err(error) => return Err(error),
            }
            resumes += 1;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks for what is missing, and adds what comes; `None` when all of it has to be asked for again.
    async fn next_part(
        &self,
        url: &Url,
        name: &FlistName,
        known: Option<&Validators>,
        partial: &mut Partial,
        max_bytes: u64,
    ) -> Result<Option<Download>, HubError> {
        let range = partial.range();
        let conditions = match &range {
            Some(range) => range.clone(),
            None => known.map(Validators::to_headers).unwrap_or_default(),
        };
        let conditional = range.is_none() && !conditions.is_empty();
        let request = self.http.get(url.clone()).headers(conditions).timeout(self.timeouts.transfer);
        let response = self.send(url, request).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if range.is_some() && partial.goes_on_with(&response) => {}
            // Another content by now, or a hub that knows no ranges.
            StatusCode::OK => partial.begin(url, &response)?,
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if range.is_some() => {
                *partial = Partial::default();
                return Ok(None);
            }
            StatusCode::NOT_MODIFIED if conditional => return Ok(Some(Download::NotModified)),
            StatusCode::NOT_FOUND => return Err(self.not_found(format!("flist {name}"))),
            _ => return Err(self.refusal(url, response).await),
        }
        let too_long = || HubError::TooLong { url: url.to_string(), limit: max_bytes };
        if partial.total.is_some_and(|total| total > max_bytes) {
            return Err(too_long());
        }
        match self.read_into(&mut partial.bytes, url, response, max_bytes).await? {
            Ending::Cut => Err(too_long()),
            // Only a whole answer has its length watched by the client.
            Ending::Whole if partial.total.is_some_and(|total| total != partial.bytes.len() as u64) => {
                *partial = Partial::default();
                Ok(None)
            }
            Ending::Whole => {
                let Partial { bytes, validators, .. } = std::mem::take(partial);
                Ok(Some(Download::Content { bytes, validators }))
            }
        }
    }
}

impl Partial {
    /// The headers that ask for the rest, if it can be told that the rest belongs to what is here.
    fn range(&self) -> Option<HeaderMap> {
        if self.bytes.is_empty() || self.total.is_none() {
            return None;
        }
        let Validators { etag, last_modified } = &self.validators;
        // A weak one says nothing about bytes.
        let same = etag.as_ref().filter(|etag| !etag.starts_with("W/")).or(last_modified.as_ref())?;
        let range = HeaderValue::from_str(&format!("bytes={}-", self.bytes.len())).ok()?;
        Some(HeaderMap::from_iter([(RANGE, range), (IF_RANGE, HeaderValue::from_str(same).ok()?)]))
    }

    /// Whether an answer is the rest of what is here.
    fn goes_on_with(&self, response: &Response) -> bool {
        let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let parsed = range.and_then(content_range);
        // A server that does not know `If-Range` sends a part of what it has by now, and may say so.
        let now = Validators::of(response.headers());
        let same = |before: &Option<String>, now: &Option<String>| now.is_none() || before == now;
        let same = same(&self.validators.etag, &now.etag)
            && same(&self.validators.last_modified, &now.last_modified);
        same && parsed.is_some_and(|(first, last, total)| {
            first == self.bytes.len() as u64 && Some(total) == self.total && last + 1 == total
        })
    }

    /// Begins anew with this answer.
    fn begin(&mut self, url: &Url, response: &Response) -> Result<(), HubError> {
        let total = response.content_length();
        if total.is_none() && !response.headers().contains_key(TRANSFER_ENCODING) {
            return Err(HubError::NoLength { url: url.to_string() });
        }
        *self = Self { bytes: Vec::new(), total, validators: Validators::of(response.headers()) };
        Ok(())
    }
}

/// `bytes 5-9/10`: first, last, total.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let parsed = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (parsed.0 <= parsed.1 && parsed.1 < parsed.2).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_make_no_sense_are_none() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, 9, 10)));
        for bad in
            ["", "bytes 5-9/*", "bytes */10", "bytes 9-5/10", "bytes 5-10/10", "lines 5-9/10", "bytes -9/10"]
        {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_what_can_be_recognized_is_resumed() {
        let of = |etag: Option<&str>, modified: Option<&str>, got: usize, total| Partial {
            bytes: vec![0; got],
            total,
            validators: Validators {
                etag: etag.map(str::to_owned),
                last_modified: modified.map(str::to_owned),
            },
        };
        let if_range = |partial: Partial| {
            let headers = partial.range()?;
            assert_eq!(headers[RANGE], "bytes=5-");
            Some(headers[IF_RANGE].to_str().unwrap().to_owned())
        };
        assert_eq!(if_range(of(Some("\"e\""), Some("today"), 5, Some(9))).as_deref(), Some("\"e\""));
        assert_eq!(if_range(of(Some("W/\"e\""), Some("today"), 5, Some(9))).as_deref(), Some("today"));
        for none in [
            of(Some("W/\"e\""), None, 5, Some(9)),
            of(None, None, 5, Some(9)),
            of(Some("\"e\""), None, 0, Some(9)),
            of(Some("\"e\""), None, 5, None),
        ] {
            assert_eq!(if_range(none), None);
        }
    }
}
