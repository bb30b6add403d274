"""What the consumer's page is made of: template, style, script, words in two languages, and readable colours."""
