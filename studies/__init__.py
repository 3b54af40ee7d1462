"""Questions to the model, each a file in `questions/`, and the page that answers them."""
