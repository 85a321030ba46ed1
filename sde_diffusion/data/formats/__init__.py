"""How records lie in files: lists of images, captions, tar files, protocol buffers, and indices."""
