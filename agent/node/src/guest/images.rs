//! Which domain of this node writes to which image: the agent's own record, taken before a start and given back after
//! the end, so that two guests on one node can never open one image, however fast they start. Between nodes that is the
//! business of `Volumes::open_check` and of RBD's exclusive lock.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The record.
#[derive(Debug, Default)]
pub(crate) struct Images {
    /// `pool/image` -> name of the domain. Held for a few map operations, never across a wait.
    writers: Mutex<HashMap<String, String>>,
}

impl Images {
    /// Takes images for a domain, all or none.
    ///
    /// # Errors
    /// The first image that another domain has, and that domain's name.
    pub(crate) fn take(&self, domain: &str, images: &[String]) -> Result<(), (String, String)> {
        let mut writers = self.lock();
        for image in images {
            if let Some(writer) = writers.get(image).filter(|writer| *writer != domain) {
                return Err((image.clone(), writer.clone()));
            }
        }
        writers.extend(images.iter().map(|image| (image.clone(), domain.to_owned())));
        Ok(())
    }

    /// Gives back everything that a domain has.
    pub(crate) fn release(&self, domain: &str) {
        self.lock().retain(|_, writer| writer != domain);
    }

    /// Gives back those that a domain has no more.
    pub(crate) fn keep(&self, domain: &str, held: impl Fn(&String) -> bool) {
        self.lock().retain(|image, writer| writer != domain || held(image));
    }

    /// Who else has one of these images: image and domain.
    pub(crate) fn others(&self, domain: &str, images: &[String]) -> Vec<(String, String)> {
        let writers = self.lock();
        let found = images.iter().filter_map(|image| Some((image.clone(), writers.get(image)?.clone())));
        found.filter(|(_, writer)| writer != domain).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, String>> {
        // The map is changed whole by each call, so a panic elsewhere has not left it half done.
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_one_writer_until_it_is_released() {
        let images = Images::default();
        let a = ["p/a".to_owned()];
        let both = ["p/b".to_owned(), "p/a".to_owned()];
        assert_eq!(images.take("one", &a), Ok(()));
        assert_eq!(images.take("one", &a), Ok(()));
        assert_eq!(images.take("two", &both), Err(("p/a".to_owned(), "one".to_owned())));
        assert_eq!(images.others("three", &both), [("p/a".to_owned(), "one".to_owned())]);
        images.keep("one", |image| image == "p/a");
        assert_eq!(images.others("three", &both), [("p/a".to_owned(), "one".to_owned())]);
        images.keep("two", |_| false);
        assert_eq!(images.others("three", &both), [("p/a".to_owned(), "one".to_owned())]);
        images.release("one");
        assert_eq!(images.take("two", &both), Ok(()));
    }
}
