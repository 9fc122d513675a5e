//! Enums whose cases are labels of metrics.

macro_rules! labelled {
    ($(#[doc = $what:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $case:ident: $label:literal;)+ }) => {
        $(#[doc = $what])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[doc = $doc])+ $case,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$case),+];

            /// The stable name in metrics and the API.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$case => $label,)+ }
            }
        }
    };
}
