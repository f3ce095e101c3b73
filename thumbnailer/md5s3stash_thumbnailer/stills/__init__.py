"""One picture of a video or of a sound: ffmpeg makes it, in a process of its own."""
