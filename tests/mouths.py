"""Mouths that tests tell from one another, in frames of 96 × 80 pixels whose face is 24 to 72, 8 to 72."""


def show_mouth(image, number):
    """A mouth in the face of `image` that is the more open the larger its number, by which it can be told."""
    image[54:58, 42:54] = 120 + 3 * number
    image[58:62, 42:54] = 60 - 3 * number
    image[54:62, 42:54, 0] = 20 + 8 * number


def seen_mouth(face):
    """The number of the mouth in what a generator sees, (3, 32, 32): by four pixels in its middle."""
    return (face[0, 24:26, 15:17].mean() * 255 - 20) / 8
