"""Which class a label means, and the number that it gets."""

import unicodedata

import pytest

from pipelines import DataError
from pipelines.datasets.class_names import name_classes


def test_folders_come_in_the_order_of_their_text_as_in_imagefolder():
    found = name_classes(["10/", "9/", "1/"], "data")
    assert found.names == ("10", "9", "1")
    assert found.order == ("1", "10", "9")
    assert found.remarks == ()


def test_folders_that_all_names_share_name_no_class_and_that_is_said():
    found = name_classes(["imagenet/train/n01/", "imagenet/train/n02/"], "data")
    assert found.names == ("n01", "n02")
    assert found.remarks == ("classes from the last folder of each name (imagenet/train/n01)",)


def test_the_first_folder_that_differs_names_the_class_whatever_lies_below():
    found = name_classes(["tiny/train/n01/images/", "tiny/train/n02/images/"], "data")
    assert found.order == ("n01", "n02")
    assert found.remarks == ("classes from folder 3 of each name (tiny/train/n01)",)
    found = name_classes(["cat/tabby/", "cat/", "dog/"], "data")
    assert found.names == ("cat", "cat", "dog")
    assert "1 folders below make no classes" in found.remarks[0]


def test_a_single_folder_names_one_class():
    assert name_classes(["imagenet/train/"], "data").names == ("train",)


def test_known_classes_decide_which_folder_names_one():
    labels = ["animals/cat/", "animals/dog/"]
    assert name_classes(labels, "data").order == ("cat", "dog")
    assert name_classes(labels, "data", ("animals", "cars")).names == ("animals", "animals")
    assert name_classes(["n01/"], "data", ("n01", "n02")).names == ("n01",)


def test_numbers_are_numbers_and_gaps_stay():
    found = name_classes(["3", "03", "0"], "data")
    assert found.names == ("3", "3", "0")
    assert found.order == ("0", "1", "2", "3")
    assert found.remarks == ("labels are numbers up to 3; of 1, 2 there are no images",)
    assert name_classes(["10", "9", "08"], "data", None).order[-3:] == ("8", "9", "10")
    assert name_classes(["900000001", "5"], "data").order == ("5", "900000001")


def test_numbers_take_the_names_that_stand_beside_them():
    found = name_classes(["1\tdog", "0\tcat", "1"], "data")
    assert found.names == ("dog", "cat", "dog")
    assert found.order == ("cat", "dog")
    cranes = name_classes(["0\tcrane", "1\tcrane"], "data")
    assert cranes.order == ("crane (0)", "crane (1)")
    with pytest.raises(DataError, match="label 1 is called 'dog' and 'cat'"):
        name_classes(["1\tdog", "1\tcat"], "data")


def test_numbers_are_places_among_known_names():
    found = name_classes(["1", "0"], "data", ("cat", "dog"))
    assert found.names == ("dog", "cat")
    assert found.remarks == ("labels are numbers: taken as places among the known classes",)
    assert name_classes(["1", "0"], "data", ("1", "0")).names == ("1", "0")


def test_a_name_is_one_in_either_form_of_unicode():
    composed, apart = "café", unicodedata.normalize("NFD", "café")
    found = name_classes([f"{composed}/", f"{apart}/", "tea/"], "data")
    assert found.order == (composed, "tea")
    assert name_classes([f"{composed}/"], "data", (apart, "tea")).names == (apart,)


def test_another_order_than_the_known_one_is_said():
    found = name_classes(["1/", "2/", "10/"], "data", ("1", "2", "10"))
    assert found.order == ("1", "2", "10")
    assert found.remarks == (
        "classes are known in another order (1, 2, 10) than that of their names here (1, 10, 2): labels follow the names",
    )
    assert name_classes(["1/", "2/"], "data", ("1", "2", "10")).remarks == ()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ["cat", "dog/"],
            "data: some samples have a label of their own .'cat'. and others only a folder .dog/.; give all",
        ),
        (["-1", "3"], "data: a sample has the label -1, which is no class"),
        (["cta/"], "data holds class 'cta', which is not among the 2 expected classes .nearest: cat."),
    ],
)
def test_labels_that_do_not_fit_are_named(labels, message):
    with pytest.raises(DataError, match=message):
        name_classes(labels, "data", ("cat", "dog") if "cta/" in labels else None)
