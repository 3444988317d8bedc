//! Makes the page to sign: everything that a policy allows, as tables, and the verdicts on its
//! assertions.

mod claims;
mod date;
mod html;
mod markdown;
mod matrix;
mod page;
mod sums;
mod tables;
mod text;

use crate::sound::Sound;

pub use claims::{AssertionRow, Considered};
pub use date::date_of;
pub use page::{About, ImageHashes, Page};

/// The form of the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShowFormat {
    /// For a terminal.
    Text,
    /// For a review.
    Markdown,
    /// A self-contained page with the graph, which can be printed.
    Html,
}

impl Sound {
    /// Returns the page to sign.
    #[must_use]
    pub fn page(&self, about: &About) -> Page {
        Page {
            image: self.policy.image.name.clone(),
            file: self.file.clone(),
            hash: self.hash,
            about: about.clone(),
            tables: tables::tables(self),
            assertions: claims::assertions(self),
        }
    }

    /// Renders the page to sign.
    #[must_use]
    pub fn show(&self, format: ShowFormat, about: &About) -> String {
        let page = self.page(about);
        match format {
            ShowFormat::Text => text::render(&page),
            ShowFormat::Markdown => markdown::render(&page),
            ShowFormat::Html => html::render(&page, &self.graph().svg()),
        }
    }
}
