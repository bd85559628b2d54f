//! What control may ask of registries: one look at one image. Refuses to keep an answer: a tag is asked for again at each
//! start.

use furrow_api::channel::{ImageAnswer, ImageQuestion};
use futures::future::BoxFuture;

use crate::storage::{Images, LookError};

/// Looks at images of registries.
pub(crate) trait LooksAtImages: Send + Sync {
    /// Looks at one.
    fn look<'a>(&'a self, question: &'a ImageQuestion) -> BoxFuture<'a, Result<ImageAnswer, LookError>>;
}

impl LooksAtImages for Images {
    fn look<'a>(&'a self, question: &'a ImageQuestion) -> BoxFuture<'a, Result<ImageAnswer, LookError>> {
        Box::pin(self.look(question))
    }
}
